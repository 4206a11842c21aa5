"""What a shared library asks of the process that loads it, beyond what auditwheel says: symbols and search paths."""

from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

LOCAL = ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")  # symbols without a version


@dataclass(frozen=True)
class Needs:
    """What has to be there when it is loaded."""

    symbols: list[str]  # without a version: of torch, or of nobody
    search_paths: list[str]


def read(library: Path) -> Needs:
    """Reads the dynamic section and its symbols."""
    with library.open("rb") as file:
        elf = ELFFile(file)
        versions = elf.get_section_by_name(".gnu.version")
        symbols = [
            symbol.name
            for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols())
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
            if versions is None or versions.get_symbol(index)["ndx"] in LOCAL
        ]
        dynamic = elf.get_section_by_name(".dynamic")
        paths = [tag.rpath for tag in dynamic.iter_tags("DT_RPATH")]
        paths += [tag.runpath for tag in dynamic.iter_tags("DT_RUNPATH")]
        return Needs(symbols, paths)
