"""Redis URLs: the one parser, and the one way to show them, without any part of a password.

What does not match the grammar below is shown as its scheme alone: a raw ``/``, ``?`` or ``#`` in a password moves the
borders of the parts, so that nobody can tell any more what is a host and what is a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from ...errors import ConfigError

_SCHEME = re.compile(r"(redis|rediss|unix)(?:\+(sentinel|cluster))?://(.*)", re.DOTALL)
_HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?"
_REST = re.compile(
    r"(?:(?P<username>[^:@/?#]*)(?P<colon>:(?P<password>[^/?#]*))?@)?"
    rf"(?P<hosts>(?:{_HOST}(?:,{_HOST})*)?)"
    r"(?P<path>/[^?#@]*)?"
    r"(?:\?(?P<query>[^#]*))?"
)
_UNIX_PATH = re.compile(r"(?P<path>/[^?#]*)(?:\?(?P<query>[^#]*))?")
_OPTION = re.compile(r"(?:(?:sentinel|ssl)_[a-z_]+=[^&]*|[a-z_]+=[^&@]*)")
_SHOWN_OPTIONS = frozenset(
    {
        "db",
        "protocol",
        "sentinel_username",
        "ssl_ca_certs",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "username",
    }
)


@dataclass(frozen=True)
class StoreUrl:
    """The parts of a Redis URL, as they are written: nothing is percent-decoded, except the options.

    Attributes:
        base: ``redis``, ``rediss`` or ``unix``.
        kind: ``sentinel``, ``cluster`` or "".
        hosts: ``host:port,host:port``.
        shown: the URL for messages and logs, without passwords.
        address: the same without user and options.
    """

    base: str
    kind: str
    username: str
    password: str
    hosts: str
    path: str
    options: dict[str, str]
    shown: str
    address: str


def read_url(url: str) -> StoreUrl:
    """The parts of a URL.

    Raises:
        ConfigError: it is none; the text has no part of it but the scheme.
    """
    found = _SCHEME.fullmatch(url)
    rest = found and ((_UNIX_PATH.fullmatch(found[3]) if found[1] == "unix" else None) or _REST.fullmatch(found[3]))
    if found is None or rest is None or (found[1] == "unix" and found[2]):
        raise _no_url(url)
    parts = {"username": "", "password": "", "colon": "", "hosts": ""} | {
        name: value or "" for name, value in rest.groupdict().items()
    }
    options = parts["query"].split("&") if parts["query"] else []
    if not all(_OPTION.fullmatch(option) for option in options):
        raise _no_url(url)
    scheme = found[1] + (f"+{found[2]}" if found[2] else "")
    address = f"{scheme}://{parts['hosts']}{parts['path']}"
    # A user without a password may be a password without its colon.
    credentials = f"{parts['username']}:***@" if parts["colon"] else "***@" if parts["username"] else ""
    query = "&".join(option if _is_shown(option) else f"{option.partition('=')[0]}=***" for option in options)
    return StoreUrl(
        base=found[1],
        kind=found[2] or "",
        username=parts["username"],
        password=parts["password"],
        hosts=parts["hosts"],
        path=parts["path"],
        options=dict(parse_qsl(parts["query"])),
        shown=f"{scheme}://{credentials}{parts['hosts']}{parts['path']}{f'?{query}' if query else ''}",
        address=address,
    )


def _is_shown(option: str) -> bool:
    return option.partition("=")[0] in _SHOWN_OPTIONS


def _no_url(url: str) -> ConfigError:
    return ConfigError(
        f"{_unreadable(url)!r} is not a Redis URL: expected redis://, rediss://, unix://, redis+sentinel:// or "
        "redis+cluster:// with [user:password@]host:port; characters such as / ? # @ in a password must be "
        "percent-encoded (%2F %3F %23 %40)"
    )


def redact(url: str) -> str:
    """The URL without its passwords, for messages and logs; of what cannot be read, the scheme alone."""
    try:
        return read_url(url).shown
    except ConfigError:
        return _unreadable(url)


def without_credentials(url: str) -> str:
    """As ``redact``, also without the user and the options."""
    try:
        return read_url(url).address
    except ConfigError:
        return _unreadable(url)


def _unreadable(url: str) -> str:
    found = _SCHEME.fullmatch(url)
    if found:
        return f"{url.partition('://')[0]}://***"
    return url if re.fullmatch(rf"{_HOST}", url) else "***"


def server_text(error: object) -> str:
    """What a Redis server says, without the arguments that it repeats: of an unknown AUTH that is the password."""
    return str(error).partition(", with args beginning with")[0]
