"Packaging, read from settings.ini, so that nbdev and pip agree."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def needs(*names):
    "The requirements listed under each `<name>_requirements`."
    return [r for name in names for r in cfg[f"{name}_requirements"].split()]


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="MIT",
    keywords=cfg["keywords"],
    packages=find_packages(include=["active_learning", "active_learning.*"]),
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={
        "notebook": needs("notebook"),
        "dask": needs("dask"),
        "app": needs("notebook", "app"),
        "bench": needs("notebook", "bench"),
        "docs": needs("docs"),
        "dev": needs("notebook", "dask", "dev"),
    },
)
