"""What products the demo catalogue holds: sub-categories, brands, attributes and families of siblings, all from hashes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Chance:
    """A stream of numbers fixed by its key: the same on every machine, Python and process.

    Args:
        parts: what the stream is keyed by; each is turned into text.

    Example:
        >>> Chance("a", 1).uniform() == Chance("a", 1).uniform()
        True
        >>> Chance("a", 1).uniform() == Chance("a", 2).uniform()
        False
    """

    def __init__(self, *parts: object) -> None:
        self._key = "\x1f".join(str(part) for part in parts).encode()
        self._block = 0
        self._numbers: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number, uniform in [low, high)."""
        if not self._numbers:
            digest = hashlib.blake2b(self._key + self._block.to_bytes(4, "big")).digest()
            self._numbers = [int.from_bytes(digest[i : i + 8], "big") / 2.0**64 for i in range(0, 64, 8)]
            self._block += 1
        return low + (high - low) * self._numbers.pop()

    def below(self, n: int) -> int:
        """The next integer, uniform in [0, n)."""
        return min(int(self.uniform() * n), n - 1)

    def pick(self, values: Sequence[T]) -> T:
        """One of the values, each as likely."""
        return values[self.below(len(values))]

    def weighted(self, weights: dict[T, float]) -> T:
        """One of the keys, as likely as its weight says."""
        mark = self.uniform(0.0, math.fsum(weights.values()))
        for key, weight in weights.items():
            mark -= weight
            if mark < 0:
                return key
        return key

    def happens(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """The values in an order of this stream's choice."""
        return [value for _, _, value in sorted((self.uniform(), i, value) for i, value in enumerate(values))]


COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (34, 34, 38),
    "white": (244, 243, 238),
    "grey": (139, 142, 147),
    "red": (206, 38, 44),
    "orange": (240, 128, 32),
    "yellow": (246, 208, 52),
    "green": (46, 138, 66),
    "turquoise": (38, 178, 170),
    "light blue": (142, 196, 236),
    "blue": (36, 78, 178),
    "purple": (122, 58, 160),
    "pink": (242, 140, 178),
    "brown": (118, 72, 40),
    "beige": (222, 198, 158),
}
LOOKALIKES = {
    frozenset(pair) for pair in (("white", "beige"), ("blue", "black"), ("brown", "black"), ("grey", "black"))
}

ALL = ("plain", "stripes", "dots", "checks", "zigzag", "floral", "two-tone")
SOME = ("plain", "stripes", "dots", "checks", "two-tone")
FEW = ("plain", "two-tone")

# material → how much dearer than the cheapest of its kind
MATERIALS: dict[str, float] = {
    "cotton": 1.0, "linen": 1.25, "wool": 1.5, "denim": 1.2, "silk": 1.9, "velvet": 1.6, "canvas": 0.9, "leather": 1.9,
    "suede": 1.7, "rubber": 0.8, "plush": 1.1, "wood": 1.4, "metal": 1.5, "plastic": 0.8, "glass": 1.2, "ceramic": 1.1,
    "rattan": 1.3, "cardboard": 0.8,
}  # fmt: skip


class Kind(NamedTuple):
    """What every product of one sub-category has in common."""

    category: str
    price: float  # of a plain one of a middle brand, in euros
    details: dict[str, tuple[str, ...]]
    materials: tuple[str, ...]
    patterns: tuple[str, ...]
    sizes: tuple[str, ...] = ()
    worn: bool = False  # made for women, men or everyone, adults or children
    adult: bool = False


_CLOTHES = ("XS", "S", "M", "L", "XL")
_SHOES = ("36 EU", "38 EU", "40 EU", "42 EU", "44 EU")
_CUPS = ("250 ml", "350 ml", "500 ml")
_BOTTLES = ("500 ml", "700 ml", "750 ml", "1 l")

SUBCATEGORIES: dict[str, Kind] = {
    "t-shirt": Kind("clothing", 16, {"sleeve": ("short sleeve", "long sleeve", "sleeveless"), "neckline": ("round neck", "v-neck")}, ("cotton", "linen", "silk"), ALL, _CLOTHES, True),
    "shirt": Kind("clothing", 32, {"sleeve": ("short sleeve", "long sleeve"), "pocket": ("chest pocket", "no pocket")}, ("cotton", "denim", "silk"), ALL, _CLOTHES, True),
    "hoodie": Kind("clothing", 42, {"closure": ("zipped", "pullover")}, ("cotton", "wool", "velvet"), ALL, _CLOTHES, True),
    "trousers": Kind("clothing", 45, {"fit": ("slim fit", "wide fit")}, ("cotton", "denim", "wool"), SOME, _CLOTHES, True),
    "shorts": Kind("clothing", 24, {"waist": ("drawstring waist", "belted waist")}, ("cotton", "denim", "linen"), ALL, _CLOTHES, True),
    "skirt": Kind("clothing", 34, {"length": ("mini length", "long length"), "cut": ("straight cut", "flared cut")}, ("cotton", "denim", "silk"), ALL, _CLOTHES, True),
    "dress": Kind("clothing", 58, {"sleeve": ("long sleeve", "sleeveless"), "neckline": ("round neck", "v-neck")}, ("cotton", "silk", "velvet"), ALL, _CLOTHES, True),
    "sneakers": Kind("shoes", 65, {"shaft": ("low-top", "high-top")}, ("canvas", "leather", "suede"), SOME, _SHOES, True),
    "boots": Kind("shoes", 95, {"shaft": ("ankle-high", "knee-high"), "heel": ("flat heel", "block heel")}, ("leather", "suede", "rubber"), FEW, _SHOES, True),
    "sandals": Kind("shoes", 38, {"straps": ("two straps", "crossed straps")}, ("leather", "rubber", "suede"), FEW, _SHOES, True),
    "pumps": Kind("shoes", 72, {"heel": ("kitten heel", "stiletto heel")}, ("leather", "suede", "silk"), SOME, _SHOES, True),
    "backpack": Kind("accessories", 55, {"pockets": ("one pocket", "two pockets")}, ("canvas", "leather", "denim"), ALL, ("15 l", "20 l", "30 l"), True),
    "handbag": Kind("accessories", 85, {"strap": ("short handle", "shoulder strap"), "cut": ("trapeze shape", "round shape")}, ("leather", "suede", "canvas"), SOME, (), True),
    "watch": Kind("accessories", 140, {"dial": ("round dial", "square dial")}, ("leather", "metal", "rubber"), FEW, ("36 mm", "42 mm"), True),
    "sunglasses": Kind("accessories", 48, {"lenses": ("round lenses", "square lenses", "cat-eye lenses")}, ("plastic", "metal", "wood"), FEW, (), True),
    "cap": Kind("accessories", 18, {"crown": ("high crown", "flat crown")}, ("cotton", "denim", "suede"), SOME, ("one size",), True),
    "umbrella": Kind("accessories", 22, {"handle": ("hooked handle", "straight handle")}, ("cotton", "silk", "plastic"), ALL, (), True),
    "chair": Kind("furniture", 90, {"back": ("solid back", "slatted back"), "legs": ("four legs", "pedestal leg")}, ("wood", "plastic", "velvet"), SOME, ("45×85 cm", "50×95 cm")),
    "table": Kind("furniture", 190, {"top": ("round top", "rectangular top"), "legs": ("four legs", "pedestal leg")}, ("wood", "metal", "plastic"), SOME, ("80 cm", "120 cm", "160 cm")),
    "sofa": Kind("furniture", 520, {"seats": ("two seats", "three seats"), "arms": ("rolled arms", "square arms")}, ("velvet", "leather", "linen"), ALL, ("160 cm", "210 cm")),
    "lamp": Kind("furniture", 60, {"shade": ("cone shade", "drum shade", "globe shade")}, ("cotton", "metal", "rattan"), ALL, ("35 cm", "50 cm")),
    "bookcase": Kind("furniture", 130, {"shelves": ("three shelves", "five shelves")}, ("wood", "metal", "rattan"), FEW, ("80×180 cm", "60×120 cm")),
    "mug": Kind("kitchen", 9, {"form": ("straight walls", "tapered walls"), "handle": ("round handle", "square handle")}, ("ceramic", "glass", "metal"), ALL, _CUPS),
    "kettle": Kind("kitchen", 45, {"spout": ("gooseneck spout", "short spout")}, ("metal", "ceramic", "plastic"), SOME, ("1 l", "1.7 l")),
    "pan": Kind("kitchen", 38, {"lid": ("with lid", "without lid")}, ("metal", "ceramic"), SOME, ("20 cm", "24 cm", "28 cm")),
    "water bottle": Kind("kitchen", 17, {"cap": ("loop cap", "flip cap")}, ("metal", "glass", "plastic"), ALL, _CUPS),
    "plate": Kind("kitchen", 8, {"rim": ("wide rim", "scalloped rim")}, ("ceramic", "wood", "glass"), ALL, ("20 cm", "27 cm")),
    "vase": Kind("kitchen", 28, {"form": ("slender neck", "bulbous body")}, ("ceramic", "glass", "rattan"), ALL, ("20 cm", "30 cm")),
    "ball": Kind("toys", 11, {"stand": ("with stand", "without stand")}, ("rubber", "leather", "plush"), ALL, ("15 cm", "22 cm")),
    "blocks": Kind("toys", 21, {"layout": ("tower set", "pyramid set")}, ("wood", "plastic", "cardboard"), SOME, ("12 pcs", "30 pcs")),
    "toy car": Kind("toys", 14, {"body": ("racing body", "truck body", "saloon body")}, ("plastic", "wood", "metal"), SOME, ("10 cm", "25 cm")),
    "teddy bear": Kind("toys", 25, {"bow": ("with bow", "without bow"), "ears": ("small ears", "big ears")}, ("plush", "wool", "velvet"), SOME, ("25 cm", "40 cm")),
    "kite": Kind("toys", 19, {"tail": ("long tail", "short tail")}, ("silk", "plastic", "canvas"), ALL, ("70 cm", "120 cm")),
    "wine": Kind("drinks", 13, {"stopper": ("cork stopper", "wax seal")}, ("glass", "ceramic"), SOME, _BOTTLES, adult=True),
    "whisky": Kind("drinks", 44, {"form": ("square bottle", "round bottle")}, ("glass", "ceramic"), SOME, _BOTTLES, adult=True),
    "beer": Kind("drinks", 3, {"pack": ("single bottle", "pack of three")}, ("glass", "metal"), SOME, ("330 ml", "500 ml"), adult=True),
    "juice": Kind("drinks", 3, {"cap": ("screw cap", "drinking straw")}, ("cardboard", "plastic"), ALL, ("200 ml", "1 l")),
    "tea": Kind("drinks", 7, {"pack": ("box", "tin")}, ("cardboard", "metal"), ALL, ("50 g", "100 g", "200 g")),
    "notebook": Kind("stationery", 7, {"binding": ("spiral binding", "sewn binding"), "band": ("elastic band", "no band")}, ("cardboard", "leather", "linen"), ALL, ("A4", "A5", "A6")),
    "pencil case": Kind("stationery", 12, {"form": ("tube form", "box form")}, ("canvas", "leather", "plastic"), ALL, ("20 cm",)),
    "scissors": Kind("stationery", 6, {"blades": ("long blades", "short blades")}, ("plastic", "rubber", "metal"), FEW, ("14 cm", "21 cm")),
    "phone": Kind("electronics", 420, {"camera": ("single camera", "triple camera")}, ("glass", "metal", "plastic"), SOME, ("128 GB", "256 GB")),
    "headphones": Kind("electronics", 110, {"cups": ("round cups", "oval cups"), "boom": ("microphone", "no microphone")}, ("plastic", "leather", "metal"), FEW, ()),
    "laptop": Kind("electronics", 780, {"pose": ("half open", "wide open")}, ("metal", "plastic", "wood"), SOME, ("13 inch", "15 inch")),
    "speaker": Kind("electronics", 75, {"form": ("cylinder form", "cube form")}, ("plastic", "wood", "linen"), SOME, ("10 W", "30 W")),
    "camera": Kind("electronics", 330, {"lens": ("short lens", "zoom lens")}, ("plastic", "leather", "metal"), FEW, ("24 MP", "32 MP")),
    "lighter": Kind("adult leisure", 12, {"lid": ("open lid", "closed lid")}, ("metal", "plastic", "leather"), SOME, (), adult=True),
    "cigars": Kind("adult leisure", 58, {"box": ("open box", "closed box")}, ("wood", "cardboard", "leather"), FEW, ("5 pcs", "20 pcs"), adult=True),
    "poker set": Kind("adult leisure", 29, {"content": ("cards only", "cards and chips")}, ("cardboard", "plastic"), SOME, ("54 pcs", "200 pcs"), adult=True),
}  # fmt: skip
CATEGORIES = tuple(dict.fromkeys(kind.category for kind in SUBCATEGORIES.values()))


class Brand(NamedTuple):
    """A brand: what it makes, how dear it is, and the mark it puts on everything."""

    name: str
    category: str
    tier: float  # multiplies the price
    glyph: str
    colour: tuple[int, int, int]


_INKS = ((214, 32, 40), (20, 96, 206), (16, 146, 72), (24, 24, 28), (236, 120, 8), (140, 40, 170))
_GLYPHS = ("disc", "ring", "triangle", "square", "diamond", "cross", "star", "bars", "chevron", "moon")
_NAMES = (
    "Aldona Brivo Cassel Dunmer Elmora Fintry Galvek Hessa Ilvan Jorvik Kestro Lumera Marnix Nolvia Ostrel Pavona Quillo "
    "Rendal Sorbia Tavren Ulmeta Vexley Wandoo Xantro Yorvel Zembla Arkade Belmin Corvex Dravo Estiva Fjorda Grenta Holvar "
    "Isotta Jalmar Kolvik Lantos Mirabo Nestra"
).split()
_TIERS = (0.6, 0.9, 1.3, 2.2)
BRANDS: dict[str, Brand] = {
    name: Brand(name, CATEGORIES[i // 4 % len(CATEGORIES)], _TIERS[i % 4], _GLYPHS[i % 10], _INKS[(i + i // 10) % 6])
    for i, name in enumerate(_NAMES)
}  # fmt: skip


@dataclass(frozen=True)
class Product:
    """One product, with everything that is true of it.

    `family` names its siblings: same sub-category and brand, apart in one or two visible attributes. `details` are
    (name, value) pairs of its shape. `second_colour` is None for a plain product.
    """

    id: str
    family: str
    category: str
    subcategory: str
    brand: str
    colour: str
    second_colour: str | None
    pattern: str
    material: str
    details: tuple[tuple[str, str], ...]
    size: str | None
    gender: str | None
    age_group: str
    adult: bool
    price: float
    seed: int = 0

    @property
    def price_band(self) -> str:
        """`low` (under 15), `medium` (under 50), `high` (under 150) or `luxury`."""
        return next((name for name, top in (("low", 15), ("medium", 50), ("high", 150)) if self.price < top), "luxury")

    @property
    def visible(self) -> dict[str, str]:
        """The attributes a person can read off a photo, by name; a plain product has no `second_colour`."""
        seen = {
            "subcategory": self.subcategory,
            "brand": self.brand,
            "colour": self.colour,
            "pattern": self.pattern,
            "material": self.material,
            **dict(self.details),
        }
        return seen if self.second_colour is None else {**seen, "second_colour": self.second_colour}

    @property
    def split(self) -> str:
        """`train`, `validation` or `test`, by the family's hash, so that siblings stay together."""
        percent = int(hashlib.sha256(f"split-{self.family}".encode()).hexdigest(), 16) % 100
        return "test" if percent < 14 else "validation" if percent < 22 else "train"


def visible_differences(a: Product, b: Product) -> int:
    """How many visible attributes two products differ in; one that only one of them has is not counted.

    A plain product against its striped sibling is one difference (the pattern), not two.
    """
    left, right = a.visible, b.visible
    return sum(left[name] != right[name] for name in left.keys() & right.keys())


def generate_products(count: int = 2400, *, seed: int = 0) -> list[Product]:
    """The first `count` products of a catalogue, no two of which look the same.

    Args:
        count: how many, at least 1.
        seed: another seed is another catalogue.

    Returns:
        Products in order of id, families together. A longer catalogue begins with the shorter one.

    Raises:
        ValueError: if count is less than 1.

    Example:
        >>> generate_products(2)[0].id
        'p00000'
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    products: list[Product] = []
    looks: set[tuple[tuple[str, str], ...]] = set()
    number = 0
    names = tuple(SUBCATEGORIES)
    deck: list[str] = []
    while len(products) < count:
        if not deck:  # every sub-category gets as many families as any other, give or take one
            deck = Chance(seed, "deck", number).shuffled(names)
        chance = Chance(seed, "family", number)
        first = _first_of_family(f"f{number:04d}", deck.pop(), chance, seed)
        wanted = chance.weighted({1: 0.15, 2: 0.30, 3: 0.25, 4: 0.15, 5: 0.10, 6: 0.05})
        members = 0
        for _ in range(wanted * 4):  # a sibling that looks like an earlier product is drawn again
            product = first if members == 0 else _sibling(first, chance)
            look = tuple(sorted(product.visible.items()))
            if look not in looks:
                looks.add(look)
                products.append(_priced(replace(product, id=f"p{len(products):05d}"), chance))
                members += 1
            elif members == 0:
                first = _first_of_family(first.family, first.subcategory, chance, seed)
            if members == wanted:
                break
        number += 1
    return products[:count]


def _first_of_family(family: str, subcategory: str, chance: Chance, seed: int) -> Product:
    kind = SUBCATEGORIES[subcategory]
    pattern = "plain" if chance.happens(0.4) else chance.pick(kind.patterns[1:])
    colour = chance.pick(tuple(COLOURS))
    brand = chance.pick([brand.name for brand in BRANDS.values() if brand.category == kind.category])
    age_group = "adults" if kind.adult else "kids" if kind.category == "toys" else "everyone"
    gender = None
    if kind.worn:
        age_group = "kids" if chance.happens(0.25) else "adults"
        gender = "women" if subcategory in ("dress", "skirt", "pumps") else chance.pick(("women", "men", "unisex"))
    return Product(
        id="",
        family=family,
        category=kind.category,
        subcategory=subcategory,
        brand=brand,
        colour=colour,
        second_colour=None if pattern == "plain" else _other_colour(colour, chance),
        pattern=pattern,
        material=chance.pick(kind.materials),
        details=tuple((name, chance.pick(values)) for name, values in kind.details.items()),
        size=None,
        gender=gender,
        age_group=age_group,
        adult=kind.adult,
        price=0.0,
        seed=seed,
    )


def _other_colour(colour: str, chance: Chance) -> str:
    return chance.pick([other for other in COLOURS if other != colour and frozenset((colour, other)) not in LOOKALIKES])


def _sibling(first: Product, chance: Chance) -> Product:
    """The same product in another colour, pattern, material or shape: one change, or now and then two."""
    product = first
    for _ in range(1 if chance.happens(0.75) else 2):
        kind = SUBCATEGORIES[product.subcategory]
        change = chance.weighted({"colour": 0.52, "pattern": 0.20, "second": 0.10, "material": 0.09, "detail": 0.09})
        if change == "second" and product.second_colour is not None:
            product = replace(product, second_colour=_other_colour(product.colour, chance))
        elif change == "pattern":
            pattern = chance.pick([value for value in kind.patterns if value != product.pattern])
            second = product.second_colour or _other_colour(product.colour, chance)
            product = replace(product, pattern=pattern, second_colour=None if pattern == "plain" else second)
        elif change == "material":
            product = replace(product, material=chance.pick([m for m in kind.materials if m != product.material]))
        elif change == "detail":
            name = chance.pick([name for name, _ in product.details])
            other = chance.pick([value for value in kind.details[name] if value != dict(product.details)[name]])
            product = replace(product, details=tuple((n, other if n == name else v) for n, v in product.details))
        else:
            other = _other_colour(product.second_colour or product.colour, chance)
            product = product if other == product.colour else replace(product, colour=other)
    return product


def _priced(product: Product, chance: Chance) -> Product:
    kind = SUBCATEGORIES[product.subcategory]
    size = chance.pick(kind.sizes) if kind.sizes else None
    price = kind.price * BRANDS[product.brand].tier * MATERIALS[product.material] * chance.uniform(0.9, 1.12)
    price *= 0.7 if product.age_group == "kids" and kind.worn else 1.0
    price = max(0.99, round(price) - 0.01 if price < 100 else float(5 * round(price / 5)))
    return replace(product, size=size, price=round(price, 2))
