"""How a host is spoken to: plain or with TLS, which certificates, through which proxy.

Plain HTTP is for this machine alone (127.0.0.0/8, ::1, localhost), and for what
LAZYCI_INSECURE_REGISTRIES names (HOST[:PORT], comma separated). Docker tries TLS first there and
falls back; here nothing is tried: such a host gets TLS when a folder of certificates is installed
for it, and plain HTTP otherwise. So no request is sent twice, and nobody can force the fallback.

Certificates: a folder HOST:PORT in /etc/containers/certs.d, /etc/docker/certs.d or
~/.config/containers/certs.d adds its *.crt to the trusted ones, and its *.cert with the *.key of
the same name is shown to the registry, as Docker and Podman do it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lazyci.errors import InputError
from lazyci.image.registry.name import is_loopback, split_host

__all__ = ["Hosts", "Trust"]

# Where distributions keep the certificates they trust, as Go's crypto/x509 looks for them.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_VARIABLES = ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_FOLDERS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


@dataclass(frozen=True, slots=True)
class Trust:
    """What TLS with one host needs.

    Attributes:
        bundle: File of trusted certificates, or an empty text for libcurl's own.
        folder: Folder of trusted certificates by their hash, or an empty text.
        extra: Certificates trusted besides, in PEM, with those of `bundle` before them.
        certificate: File of the certificate to show, or an empty text.
        key: File of its key.
    """

    bundle: str = ""
    folder: str = ""
    extra: bytes = b""
    certificate: str = ""
    key: str = ""


class Hosts:
    """The rules of this machine, read from an environment and folders of certificates."""

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        folders: Sequence[str] | None = None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        if folders is None:
            home = self._environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
            folders = (*_FOLDERS, f"{home}/containers/certs.d")
        self._folders = folders
        named = self._environ.get("LAZYCI_INSECURE_REGISTRIES", "").lower().split(",")
        self._plain = {host.strip() for host in named} - {""}

    def base(self, host: str) -> str:
        """The URL that HOST[:PORT] is spoken to at, without a path."""
        plain = host in self._plain or host.removesuffix(f":{split_host(host)[1]}") in self._plain
        if not plain and is_loopback(host):
            plain = not any(True for _ in self._installed(host))
        return f"{'http' if plain else 'https'}://{host}"

    def proxy(self, url: str) -> str | None:
        """The proxy for a URL; None leaves it to libcurl, an empty text means none.

        libcurl reads the usual variables. This machine is never spoken to through a proxy, as in
        Docker. libcurl reads http_proxy in lower case only, since a web server sets HTTP_PROXY
        from a request's header `Proxy`; outside of CGI that cannot be.
        """
        parts = urlsplit(url)
        if is_loopback(parts.netloc):
            return ""
        if parts.scheme == "http" and "http_proxy" not in self._environ:
            cgi = "REQUEST_METHOD" in self._environ
            return None if cgi else self._environ.get("HTTP_PROXY")
        return None

    def trust(self, host: str) -> Trust:
        """The certificates for HOST[:PORT].

        Raises:
            InputError: A file of certificates cannot be read.
        """
        bundle = next((found for name in _VARIABLES if (found := self._environ.get(name))), "")
        if bundle and not os.path.isfile(bundle):
            raise InputError("there is no such file of certificates", path=bundle)
        bundle = bundle or next((path for path in _BUNDLES if os.path.isfile(path)), "")
        folder = self._environ.get("SSL_CERT_DIR", "")
        extra: list[bytes] = []
        certificate = key = ""
        try:
            for path in self._installed(host):
                if path.suffix == ".crt":
                    extra.append(path.read_bytes())
                elif path.suffix == ".cert" and path.with_suffix(".key").is_file():
                    certificate, key = str(path), str(path.with_suffix(".key"))
            if extra and bundle:
                extra.insert(0, Path(bundle).read_bytes())
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", path=error.filename) from None
        return Trust(bundle, folder, b"\n".join(extra), certificate, key)

    def _installed(self, host: str) -> list[Path]:
        found: list[Path] = []
        for folder in self._folders:
            try:
                found += sorted((Path(folder) / host).iterdir())
            except OSError:
                continue
        return found
