"""Build the real clients and servers of the tests into a cache folder outside the repository.

python tests/clients/install.py [NAME...]    build what is missing (all clients by default)
python tests/clients/install.py --path NAME  print where an installed client is
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
FAILED, NO_TOOL = 1, 3
LINES_SHOWN = 20


class Client(NamedTuple):
    """One client: what to build, at which version."""

    name: str
    version: str
    package: str
    tool: str
    stamp: str
    tags: list[str]
    replace: dict[str, str]


class BuildError(Exception):
    """A build command failed; holds the command and the end of what it printed."""


def _read_clients() -> dict[str, Client]:
    table = json.loads((HERE / "versions.json").read_text(encoding="utf-8"))
    return {
        name: Client(
            name,
            row["version"],
            row["package"],
            row.get("tool", "go"),
            row.get("stamp", ""),
            row.get("tags", []),
            row.get("replace", {}),
        )
        for name, row in table.items()
    }


CLIENTS = _read_clients()


def cache_folder() -> Path:
    """Where clients are kept: LAZYCI_CLIENTS, or the user's cache."""
    chosen = os.environ.get("LAZYCI_CLIENTS")
    if chosen:
        return Path(chosen).expanduser().absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME")
    # An empty or relative XDG_CACHE_HOME counts as unset: so says its specification.
    if not user_cache or not os.path.isabs(user_cache):
        return Path.home() / ".cache" / "lazyci" / "clients"
    return Path(user_cache) / "lazyci" / "clients"


def _target(client: Client) -> Path:
    return cache_folder() / f"{client.name}-{client.version}" / client.name


def installed(name: str) -> Path | None:
    """Return the client's executable if it is built, at the version that versions.json names."""
    path = _target(CLIENTS[name])
    return path if path.is_file() and os.access(path, os.X_OK) else None


def _run(scratch: Path, environment: dict[str, str], *command: str) -> None:
    done = subprocess.run(
        command,
        cwd=scratch,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        end = done.stdout.rstrip().splitlines()[-LINES_SHOWN:]
        raise BuildError("\n".join([f"{' '.join(command)} failed:", *end]))


def _build_with_go(client: Client, scratch: Path) -> Path:
    """Build the client inside a scratch folder; return the folder that holds it.

    A package of a module that holds "replace" cannot be installed as it is, so a scratch module
    takes it as a tool.
    """
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        # A workspace around the temporary folder must not take part.
        "GOWORK": "off",
    }
    _run(scratch, environment, "go", "mod", "init", "scratch")
    for module, source in client.replace.items():
        # Copied, so that the replacement is a relative path: the binary records it.
        shutil.copytree(HERE / source, scratch / source)
        _run(scratch, environment, "go", "mod", "edit", f"-replace={module}=./{source}")
    _run(scratch, environment, "go", "get", "-tool", f"{client.package}@v{client.version}")
    # Releases get their version from the linker; without it these print "dev" or nothing.
    linker = [f"-ldflags=-X {client.stamp}={client.version}"] if client.stamp else []
    folder = scratch / "bin"
    # -mod here, not in GOFLAGS: the user's own flags stay as they are.
    tags = [f"-tags={','.join(client.tags)}"] if client.tags else []
    flags = ["-mod=mod", "-trimpath", *tags, *linker, "-o", str(folder / client.name)]
    _run(scratch, environment, "go", "build", *flags, client.package)
    return folder


def _build_with_cargo(client: Client, scratch: Path) -> Path:
    """Build all binaries of the client's crate; return the folder that holds them."""
    # In the scratch folder, so that a stopped build leaves nothing; a caller may name one to reuse.
    environment = {"CARGO_TARGET_DIR": str(scratch / "target"), **os.environ}
    options = ["--version", client.version, "--locked", "--root", str(scratch)]
    _run(scratch, environment, "cargo", "install", client.package, *options)
    return scratch / "bin"


def _put(built: Path, target: Path) -> None:
    """Copy beside the target, then rename: under the final name stands a whole file or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        shutil.copy(built, name)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def install(name: str) -> Path:
    """Build one client and put it into the cache, with the others that its build gives."""
    client = CLIENTS[name]
    build = _build_with_cargo if client.tool == "cargo" else _build_with_go
    source = (client.package, client.version)
    with tempfile.TemporaryDirectory(prefix=f"lazyci-{name}-") as scratch:
        folder = build(client, Path(scratch))
        for built in CLIENTS.values():
            if (built.package, built.version) == source:
                _put(folder / built.name, _target(built))
    return _target(client)


def _print_path(name: str) -> int:
    path = installed(name)
    if path is None:
        print(
            f"{name} {CLIENTS[name].version} is not installed: "
            f"run python tests/clients/install.py {name}",
            file=sys.stderr,
        )
        return FAILED
    print(path)
    return 0


def _install_all(names: list[str]) -> int:
    for name in names:
        version, tool = CLIENTS[name].version, CLIENTS[name].tool
        path = installed(name)
        state = "present"
        if path is None:
            if shutil.which(tool) is None:
                print(
                    f"{name} {version}: {tool} is needed to build it, and it is not in PATH",
                    file=sys.stderr,
                )
                return NO_TOOL
            print(f"{name} {version}: building", file=sys.stderr, flush=True)
            try:
                path = install(name)
            except BuildError as error:
                print(f"{name} {version}: {error}", file=sys.stderr)
                return FAILED
            state = "built"
        print(f"{name} {version} {path} ({state})", flush=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build the clients that the tests drive.")
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help=f"one of {', '.join(CLIENTS)}; default: all"
    )
    parser.add_argument(
        "--path", metavar="NAME", choices=list(CLIENTS), help="print where NAME is and exit"
    )
    options = parser.parse_args(arguments)
    # argparse's own choices refuse an empty list.
    unknown = [name for name in options.names if name not in CLIENTS]
    if unknown:
        parser.error(f"unknown client {unknown[0]}; known: {', '.join(CLIENTS)}")
    if options.path:
        return _print_path(options.path)
    return _install_all(options.names or list(CLIENTS))


if __name__ == "__main__":
    # As an exception, so that a terminated run removes its scratch folder too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
