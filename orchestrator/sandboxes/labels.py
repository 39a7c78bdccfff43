"""Labels of sandboxes and images, by which they are found again and told apart, in another process too."""

from collections.abc import Mapping

from orchestrator.sandboxes.backend import Interpreter

# Of sandboxes.
INSTANCE_LABEL = "io.kodou.instance"  # whose it is: servers with other data directories leave it alone
SESSION_LABEL = "io.kodou.session"
POOLED = "0" * 32  # in place of a session's id: of warm sandboxes, also once a session has claimed them

# Of images.
ENVIRONMENT_LABEL = "io.kodou.environment"  # its id
LANGUAGE_LABEL = "io.kodou.language"
VERSION_LABEL = "io.kodou.version"  # exact, of the interpreter
INTERPRETER_LABEL = "io.kodou.interpreter"  # its digest
PLATFORM_LABEL = "io.kodou.platform"
PACKAGES_LABEL = "io.kodou.packages"  # name==version of each, by name


def image_labels(environment_id: str, interpreter: Interpreter, packages: Mapping[str, str]) -> dict[str, str]:
    """What an environment's image says of it. `packages`: name -> version."""
    return {
        ENVIRONMENT_LABEL: environment_id,
        LANGUAGE_LABEL: interpreter.language,
        VERSION_LABEL: interpreter.version,
        INTERPRETER_LABEL: interpreter.digest,
        PLATFORM_LABEL: interpreter.platform,
        PACKAGES_LABEL: " ".join(f"{name}=={version}" for name, version in sorted(packages.items())),
    }
