"""Ray, driven: a session is an actor; its dashboard is off, and its actors ask for no processor so that all fit."""

import os

import ray
from driving import Peer, serve


@ray.remote(num_cpus=0)
class Session:
    def __init__(self) -> None:
        import numpy

        self._numpy = numpy

    def total(self, values: list[int]) -> float:
        return float(self._numpy.array(values).sum())

    def pid(self) -> int:
        return os.getpid()


class Ray(Peer):
    def __init__(self) -> None:
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=os.environ["HOME"],  # that of this run, so that nothing is left
        )

    def start(self) -> object:
        actor = Session.remote()
        self.call(actor)
        return actor

    def call(self, session: object) -> float:
        return ray.get(session.total.remote([2, 4, 6]))

    def pid(self, session: object) -> int:
        return ray.get(session.pid.remote())

    def end(self, session: object) -> None:
        ray.kill(session)

    def close(self) -> None:
        ray.shutdown()


if __name__ == "__main__":
    serve(Ray)
