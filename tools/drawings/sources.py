"""The packages of the drawings, pinned by version and sha256, and their licences."""

import dataclasses

from tools import emoji as emoji_build


@dataclasses.dataclass(frozen=True)
class Package:
    """A package: `name@version` of npm, or `name=version` of Debian, and its sha256."""

    spec: str
    sha256: str

    @property
    def is_debian(self):
        """Whether the package is from Debian instead of npm."""
        return "=" in self.spec

    @property
    def folder(self):
        """The name of the folder it is unpacked into, e.g. `iconify-json-noto-1.2.9`."""
        if self.is_debian:
            return self.spec.partition("=")[0]
        return emoji_build.folder_of(self.spec)

    @property
    def archive(self):
        """The name of its archive."""
        if not self.is_debian:
            return f"{self.folder}.tgz"
        name, _, version = self.spec.partition("=")
        return f"{name}_{version.replace(':', '%3a')}_all.deb"


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of drawings, with its author and licence."""

    style: str
    package: Package
    licence: str
    author: str
    url: str


def _npm(name, sha256):
    return Package(f"@iconify-json/{name}", sha256)


WORDS = Package(
    emoji_build.WORDS, "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"
)
WORDNET = Package(
    "wordnet-base=1:3.0-37", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"
)

_STREAMLINE = ("CC-BY-4.0", "Streamline", "https://github.com/webalys-hq/streamline-vectors")
_FLUENT = ("MIT", "Microsoft Corporation", "https://github.com/microsoft/fluentui-emoji")
_NOTO = ("Apache-2.0", "Google Inc.", "https://github.com/googlefonts/noto-emoji")

EMOJI = (
    Source(
        "twemoji",
        _npm("twemoji@1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
        "CC-BY-4.0",
        "Twitter, Inc and other contributors",
        "https://github.com/jdecked/twemoji",
    ),
    Source(
        "noto",
        _npm("noto@1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
        *_NOTO,
    ),
    Source(
        "noto v1",
        _npm("noto-v1@1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
        *_NOTO,
    ),
    Source(
        "fluent",
        _npm(
            "fluent-emoji@1.2.7",
            "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        ),
        *_FLUENT,
    ),
    Source(
        "fluent flat",
        _npm(
            "fluent-emoji-flat@1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ),
        *_FLUENT,
    ),
    Source(
        "emojione",
        _npm("emojione@1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
        "CC-BY-4.0",
        "Ranks.com, Inc. and the EmojiTwo community",
        "https://github.com/EmojiTwo/emojitwo",
    ),
    Source(
        "fxemoji",
        _npm("fxemoji@1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
        "CC-BY-4.0",
        "Mozilla Foundation",
        "https://github.com/mozilla/fxemoji",
    ),
)

CLIPART = Source(
    "openclipart",
    Package(
        "openclipart-svg=1:0.18+dfsg-19",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    ),
    "public domain",
    "contributors of the Open Clip Art Library, each named in its file",
    "https://openclipart.org",
)

ICONS = (
    Source(
        "flat color icons",
        _npm(
            "flat-color-icons@1.2.3",
            "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786",
        ),
        "MIT",
        "Icons8",
        "https://github.com/icons8/flat-color-icons",
    ),
    Source(
        "fluent color",
        _npm(
            "fluent-color@1.2.21",
            "fa2ddaaac7a2a7b902659cea1b5b8c03017ce2ae56295138876b86a36177dfbe",
        ),
        "MIT",
        "Microsoft Corporation",
        "https://github.com/microsoft/fluentui-system-icons",
    ),
    Source(
        "icon park",
        _npm("icon-park@1.2.4", "c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f"),
        "Apache-2.0",
        "ByteDance",
        "https://github.com/bytedance/IconPark",
    ),
    Source(
        "marketeq",
        _npm("marketeq@1.2.2", "80070c7b0fb41ed5198ecadb9145984d2221b975bb9e0f52f563beb241d549cb"),
        "MIT",
        "Marketeq",
        "https://icon-sets.iconify.design/marketeq",
    ),
    Source(
        "meteocons",
        _npm("meteocons@1.2.4", "1c0b49c6375c0e35c3ed65db6e41e9811a0cbd2368c13ee27f870f60c6185ff0"),
        "MIT",
        "Bas Milius",
        "https://github.com/basmilius/weather-icons",
    ),
    *(
        Source(f"streamline {look}", _npm(f"streamline-{name}@{version}", sha256), *_STREAMLINE)
        for look, name, version, sha256 in (
            (
                "cyber",
                "cyber-color",
                "1.2.2",
                "bc71bb624b8a500841e2e47c0175bf13dfb99b38a6ddc2421d3ac21331e21eac",
            ),
            (
                "emojis",
                "emojis",
                "1.2.4",
                "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
            ),
            (
                "flex",
                "flex-color",
                "1.2.2",
                "17ef2e9d596bb288991c271a2b468be822f994cb073c94801a1c186a0e4af827",
            ),
            (
                "freehand",
                "freehand-color",
                "1.2.2",
                "00d74cbddaf1bcf35c8614ac0544d10af69c7cee8801475473fe424ee0c0c642",
            ),
            (
                "kameleon",
                "kameleon-color",
                "1.2.2",
                "5f972d986afb340d8a45d7a16e767f99f91fdd94db53e46a78c79847212aed7b",
            ),
            (
                "plump",
                "plump-color",
                "1.2.2",
                "33ed8a9ebda9ed896125f1e01873105688d68d0b0c95ca1bcead5a41309afcf6",
            ),
            (
                "sharp",
                "sharp-color",
                "1.2.2",
                "2bf3019009ba033d723823dc16ff3c7f5a7dbce25e31860ed9d4b1060a1f5831",
            ),
            (
                "stickies",
                "stickies-color",
                "1.2.2",
                "e96b8b2bbe1efde22272c420a75024b4b2c7e224ec1f323c93a421a07410971e",
            ),
            (
                "ultimate",
                "ultimate-color",
                "1.2.2",
                "46133a11f3734bcef29066391d7edc141ed1d8056242ddfa1b5d36ce286420b6",
            ),
        )
    ),
)

SOURCES = (*EMOJI, CLIPART, *ICONS)
