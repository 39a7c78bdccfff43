"""A package index (PEP 503) of packages made on the spot, which can be made to wait before it gives a file out."""

import functools
import hashlib
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class MadeIndex:
    """`url` goes to KODOU_INDEX_URL. A wheel's metadata is given out beside it, so a wheel itself is asked for only to be
    installed: `given` counts these by file name."""

    def __init__(self, directory: Path) -> None:
        self.given: Counter[str] = Counter()
        self.asked = threading.Event()  # for a package file, at least once
        self.url = ""
        self._directory = directory
        self._may_give = threading.Event()
        self._may_give.set()

    def add(self, make: Callable[[Path], Path]) -> None:
        """Offer what `make` writes into the directory that it is given."""
        made = make(self._directory)
        project = self._directory / "simple" / made.name.partition("-")[0]
        project.mkdir(parents=True, exist_ok=True)
        made = made.rename(project / made.name)
        if made.suffix == ".whl":
            with zipfile.ZipFile(made) as archive:
                (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
                (project / f"{made.name}.metadata").write_bytes(archive.read(name))
        metadata = ' data-core-metadata="true"' if made.suffix == ".whl" else ""
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        (project / "index.html").write_text(
            f'<!DOCTYPE html><a href="{made.name}#sha256={digest}"{metadata}>{made.name}</a>'
        )

    def hold(self) -> None:
        """From now on who asks for a package file waits, a minute at most: a build is under way for as long as a test wants."""
        self.asked.clear()
        self._may_give.clear()

    def release(self) -> None:
        """Give out what is asked for, those who wait first."""
        self._may_give.set()

    def given_of(self, package: str) -> int:
        """How often a package's files were asked for."""
        return sum(count for name, count in self.given.items() if name.startswith(f"{package}-"))

    def give(self, name: str) -> None:
        """Called for each package file, before it is sent."""
        self.given[name] += 1
        self.asked.set()
        self._may_give.wait(60)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: object, index: MadeIndex, directory: str) -> None:
        self._index = index
        super().__init__(*arguments, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name.endswith((".whl", ".tar.gz")):
            self._index.give(name)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def made_index(directory: Path, *packages: Callable[[Path], Path]) -> Iterator[MadeIndex]:
    """An index of these packages, as `tests.made_packages` makes them, that keeps its files in `directory`."""
    index = MadeIndex(directory)
    for make in packages:
        index.add(make)
    handler = functools.partial(_Handler, index=index, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        index.url = f"http://127.0.0.1:{http.server_address[1]}/simple"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield index
        finally:
            http.shutdown()
            thread.join()
