"""
The features of the running kernel
==================================

A gateway needs bonding, ESP, the XFRM user interface, AES-GCM and, with a firewall, the packet filter. A kernel without
one of them fails late, with messages that name something else. This module reads the kernel's own configuration
(``/proc/config.gz``, ``/boot/config-VERSION``) or, if the kernel has none, the list of the modules that belong to it.
"""
from __future__ import annotations

import gzip
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__virtualname__ = "kernel_options"


# No dataclass: Salt's loader does not register an execution module in sys.modules, where dataclasses look for it.
class Option(NamedTuple):
    """A kernel option (without ``CONFIG_``), the module that it builds, and what a gateway needs it for.

    The module is "" where its name differs between kernels (AES is aes_generic, aes-generic or aes): there only the
    configuration can tell whether the kernel has the option.
    """

    name: str
    module: str
    purpose: str


# By the feature of a site that needs them. The names are those in the kernel's Kconfig files.
NEEDED: dict[str, tuple[Option, ...]] = {
    "bonding": (
        Option("BONDING", "bonding", "bonds of network interfaces"),
    ),
    "openswan": (
        Option("XFRM_USER", "xfrm_user", "the IPsec daemon's way into the kernel"),
        Option("INET_ESP", "esp4", "ESP over IPv4"),
        Option("INET6_ESP", "esp6", "ESP over IPv6"),
        Option("CRYPTO_AES", "", "AES"),
        Option("CRYPTO_GCM", "gcm", "AES-GCM"),
        Option("CRYPTO_CBC", "cbc", "AES-CBC"),
        Option("CRYPTO_HMAC", "", "integrity of ESP packets"),
        Option("CRYPTO_AUTHENC", "authenc", "AES-CBC together with integrity"),
    ),
    "firewall": (
        Option("NF_TABLES", "nf_tables", "the packet filter"),
        Option("NF_TABLES_INET", "nf_tables", "one ruleset for IPv4 and IPv6"),
        Option("NF_CONNTRACK", "nf_conntrack", "answers to what the gateway asked"),
        Option("NFT_CT", "nft_ct", "rules by connection state"),
        Option("NFT_XFRM", "nft_xfrm", "rules by IPsec policy"),
        Option("NFT_LIMIT", "nft_limit", "limits on what is logged"),
        Option("NFT_LOG", "nft_log", "logging what was dropped"),
    ),
}


def __virtual__() -> tuple[bool, str] | str:
    if platform.system() != "Linux":
        return False, "kernel_options: needs Linux"
    return __virtualname__


def missing(features: Iterable[str]) -> list[dict[str, str]]:
    """
    The options that the running kernel lacks.

    Args:
        features: the features that are on (``bonding``, ``openswan``, ``firewall``); other features need no option.

    Returns:
        One ``{"name", "module", "purpose"}`` for each. An option that the kernel has as a module which is not installed
        is missing too.

    CLI Example:

    .. code-block:: bash

        salt '*gw*' kernel_options.missing '[bonding, openswan, firewall]'
    """
    config, installed, found = configuration(), _installed(), []
    for option in (option for feature in features for option in NEEDED.get(feature, ())):
        no_module = bool(option.module) and option.module not in installed
        if config is None:
            lacking = no_module
        else:
            value = config.get(option.name)
            lacking = value is None or (value == "m" and no_module)
        if lacking:
            found.append(option._asdict())
    return found


def configuration() -> dict[str, str] | None:
    """
    The running kernel's configuration: option (without ``CONFIG_``) to value (``y``, ``m``, a number, a text).

    Returns:
        None when the kernel has no configuration of its own and the distribution has none in /boot.

    CLI Example:

    .. code-block:: bash

        salt gw1.winterthur kernel_options.configuration
    """
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{platform.release()}")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        return parse(gzip.decompress(data).decode() if path.suffix == ".gz" else data.decode())
    return None


def parse(text: str) -> dict[str, str]:
    """
    Read a kernel configuration (kernel: Documentation/kbuild/kconfig.rst).

    Args:
        text: lines such as ``CONFIG_BONDING=m``; an option that is off is a comment or absent.

    Returns:
        Option (without ``CONFIG_``) to value, quotes removed.

    CLI Example:

    .. code-block:: bash

        salt gw1.winterthur kernel_options.parse 'CONFIG_BONDING=m'
    """
    pairs = (line.split("=", 1) for line in text.splitlines() if line.startswith("CONFIG_") and "=" in line)
    return {name.removeprefix("CONFIG_"): value.strip().strip('"') for name, value in pairs}


def loadable(modules: Iterable[str]) -> list[str]:
    """
    Those of the given modules that must be loaded, because they are not built into the kernel.

    Args:
        modules: names such as ``esp4``.

    CLI Example:

    .. code-block:: bash

        salt gw1.winterthur kernel_options.loadable '[bonding, esp4]'
    """
    builtin = _names("modules.builtin")
    return [module for module in modules if module.replace("-", "_") not in builtin]


def _installed() -> set[str]:
    return _names("modules.builtin") | _names("modules.dep")


def _names(index: str) -> set[str]:
    """The modules in one of depmod's indexes. Each line is a path; a colon and the module's dependencies may follow."""
    try:
        lines = Path(f"/lib/modules/{platform.release()}/{index}").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    files = (line.partition(":")[0].rpartition("/")[2] for line in lines)
    # a module's name has underscores where its file name may have dashes
    return {file.partition(".ko")[0].replace("-", "_") for file in files}
