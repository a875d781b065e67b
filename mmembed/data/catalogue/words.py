"""What is written about a product: titles and descriptions in English, Chinese and Russian, with gaps as in life."""

from __future__ import annotations

from mmembed.data.catalogue.products import Chance, Product

LANGUAGES = ("en", "zh", "ru")

# attribute value → its names (en, zh, ru); several names of one language are parted by "|" and the first is the usual one
WORDS: dict[str, tuple[str, str, str]] = {
    # colours
    "black": ("black", "黑色", "чёрный"), "white": ("white", "白色", "белый"), "grey": ("grey|gray", "灰色", "серый"),
    "red": ("red|crimson", "红色|大红色", "красный|алый"), "orange": ("orange", "橙色|橘色", "оранжевый"),
    "yellow": ("yellow", "黄色", "жёлтый"), "green": ("green", "绿色", "зелёный"),
    "turquoise": ("turquoise|teal", "青绿色", "бирюзовый"), "light blue": ("light blue|sky blue", "浅蓝色|天蓝色", "голубой"),
    "blue": ("blue|royal blue", "蓝色|宝蓝色", "синий"), "purple": ("purple|violet", "紫色", "фиолетовый"),
    "pink": ("pink", "粉色|粉红色", "розовый"), "brown": ("brown|chocolate", "棕色|咖啡色", "коричневый"),
    "beige": ("beige|sand", "米色", "бежевый"),
    # patterns
    "plain": ("plain", "纯色", "без рисунка"), "stripes": ("stripes|striped", "条纹", "полоска|в полоску"),
    "dots": ("polka dots|dotted", "圆点|波点", "горошек|в горошек"), "checks": ("checks|checkered", "格子|格纹", "клетка|в клетку"),
    "zigzag": ("zigzag|zigzag print", "锯齿纹", "зигзаг"), "floral": ("floral|flower print", "花朵图案|碎花", "цветочный узор|цветы"),
    "two-tone": ("two-tone|colour block", "双色拼接|撞色", "двухцветный дизайн|два цвета"),
    # materials
    "cotton": ("cotton", "棉", "хлопок"), "linen": ("linen", "亚麻", "лён"), "wool": ("wool|knit", "羊毛|针织", "шерсть"),
    "denim": ("denim", "牛仔布", "деним"), "silk": ("silk|satin", "丝绸|缎面", "шёлк|атлас"),
    "velvet": ("velvet", "天鹅绒|丝绒", "бархат"), "canvas": ("canvas", "帆布", "канвас|парусина"),
    "leather": ("leather", "皮革|真皮", "кожа"), "suede": ("suede", "麂皮|绒面革", "замша"), "rubber": ("rubber", "橡胶", "резина"),
    "plush": ("plush", "毛绒", "плюш"), "wood": ("wood|wooden", "木质|实木", "дерево"), "metal": ("metal|steel", "金属|不锈钢", "металл"),
    "plastic": ("plastic", "塑料", "пластик"), "glass": ("glass", "玻璃", "стекло"), "ceramic": ("ceramic", "陶瓷", "керамика"),
    "rattan": ("rattan", "藤编", "ротанг"), "cardboard": ("cardboard|paper", "纸质|纸板", "картон"),
    # sub-categories
    "t-shirt": ("T-shirt|tee", "T恤", "футболка"), "shirt": ("shirt|button-up shirt", "衬衫", "рубашка"),
    "hoodie": ("hoodie", "连帽卫衣|卫衣", "худи|толстовка"), "trousers": ("trousers|pants", "长裤|裤子", "брюки|штаны"),
    "shorts": ("shorts", "短裤", "шорты"), "skirt": ("skirt", "半身裙", "юбка"), "dress": ("dress", "连衣裙", "платье"),
    "sneakers": ("sneakers|trainers", "运动鞋", "кроссовки"), "boots": ("boots", "靴子", "сапоги"), "sandals": ("sandals", "凉鞋", "сандалии"),
    "pumps": ("pumps|court shoes", "高跟鞋", "туфли"), "backpack": ("backpack|rucksack", "双肩包|背包", "рюкзак"),
    "handbag": ("handbag|purse", "手提包|女包", "сумка"), "watch": ("watch|wristwatch", "手表|腕表", "часы|наручные часы"),
    "sunglasses": ("sunglasses", "太阳镜|墨镜", "солнцезащитные очки|тёмные очки"), "cap": ("cap|baseball cap", "棒球帽|鸭舌帽", "бейсболка|кепка"),
    "umbrella": ("umbrella", "雨伞", "зонт"), "chair": ("chair", "椅子", "стул"), "table": ("table", "桌子", "стол"),
    "sofa": ("sofa|couch", "沙发", "диван"), "lamp": ("lamp|table lamp", "台灯", "лампа|настольная лампа"),
    "bookcase": ("bookcase|bookshelf", "书架|书柜", "книжный шкаф|стеллаж"), "mug": ("mug|cup", "马克杯|杯子", "кружка"),
    "kettle": ("kettle", "水壶|烧水壶", "чайник"), "pan": ("pan|frying pan", "平底锅|煎锅", "сковорода"),
    "water bottle": ("water bottle|drinking bottle", "水杯|运动水壶", "бутылка для воды"), "plate": ("plate", "盘子|餐盘", "тарелка"),
    "vase": ("vase", "花瓶", "ваза"), "ball": ("ball", "皮球", "мяч"), "blocks": ("building blocks|toy blocks", "积木", "кубики"),
    "toy car": ("toy car", "玩具车", "игрушечная машинка|машинка"), "teddy bear": ("teddy bear", "泰迪熊|玩具熊", "плюшевый мишка|медвежонок"),
    "kite": ("kite", "风筝", "воздушный змей"), "wine": ("wine|bottle of wine", "葡萄酒|红酒", "вино"),
    "whisky": ("whisky", "威士忌", "виски"), "beer": ("beer|lager", "啤酒", "пиво"), "juice": ("juice", "果汁", "сок"),
    "tea": ("tea", "茶叶", "чай"), "notebook": ("notebook", "笔记本|记事本", "блокнот|тетрадь"),
    "pencil case": ("pencil case", "笔袋|文具盒", "пенал"), "scissors": ("scissors", "剪刀", "ножницы"),
    "phone": ("phone|smartphone", "手机|智能手机", "смартфон|телефон"), "headphones": ("headphones", "耳机", "наушники"),
    "laptop": ("laptop|notebook computer", "笔记本电脑", "ноутбук"), "speaker": ("speaker|loudspeaker", "音箱|音响", "колонка"),
    "camera": ("camera", "相机|照相机", "фотоаппарат|камера"), "lighter": ("lighter", "打火机", "зажигалка"),
    "cigars": ("cigars|box of cigars", "雪茄", "сигары"), "poker set": ("poker set|playing cards", "扑克牌套装|扑克牌", "набор для покера|игральные карты"),
    # details
    "short sleeve": ("short sleeve", "短袖", "короткий рукав"), "long sleeve": ("long sleeve", "长袖", "длинный рукав"),
    "sleeveless": ("sleeveless", "无袖", "без рукавов"), "round neck": ("round neck|crew neck", "圆领", "круглый вырез"),
    "v-neck": ("V-neck", "V领", "V-образный вырез"), "chest pocket": ("chest pocket", "胸前口袋", "нагрудный карман"),
    "no pocket": ("no pocket", "无口袋", "без кармана"), "zipped": ("zipped|full zip", "拉链款", "на молнии"),
    "pullover": ("pullover", "套头款", "без молнии"), "slim fit": ("slim fit", "修身款", "узкий крой"),
    "wide fit": ("wide fit|wide leg", "宽松款", "широкий крой"), "drawstring waist": ("drawstring waist", "抽绳腰", "пояс на шнурке"),
    "belted waist": ("belted waist", "腰带款", "пояс с ремнём"), "mini length": ("mini", "短款", "мини"),
    "long length": ("maxi|long", "长款", "макси"), "straight cut": ("straight cut", "直筒", "прямой крой"),
    "flared cut": ("flared", "伞形", "расклешённый крой"), "low-top": ("low-top", "低帮", "низкий верх"),
    "high-top": ("high-top", "高帮", "высокий верх"), "ankle-high": ("ankle-high", "短筒", "до щиколотки"),
    "knee-high": ("knee-high", "长筒", "до колена"), "flat heel": ("flat heel", "平跟", "плоская подошва"),
    "block heel": ("block heel", "粗跟", "широкий каблук"), "two straps": ("two straps", "双带", "два ремешка"),
    "crossed straps": ("crossed straps", "交叉带", "перекрёстные ремешки"), "kitten heel": ("kitten heel|low heel", "低跟", "низкий каблук"),
    "stiletto heel": ("stiletto heel|high heel", "细高跟", "шпилька|высокая шпилька"), "one pocket": ("one pocket", "单口袋", "один карман"),
    "two pockets": ("two pockets", "双口袋", "два кармана"), "short handle": ("short handle", "短提手", "короткая ручка"),
    "shoulder strap": ("shoulder strap", "长肩带", "ремень на плечо"), "trapeze shape": ("trapeze shape", "梯形", "форма трапеции"),
    "round shape": ("round shape", "圆形", "округлая форма"), "round dial": ("round dial", "圆形表盘", "круглый циферблат"),
    "square dial": ("square dial", "方形表盘", "квадратный циферблат"), "round lenses": ("round lenses", "圆形镜片", "круглые линзы"),
    "square lenses": ("square lenses", "方形镜片", "квадратные линзы"), "cat-eye lenses": ("cat-eye lenses", "猫眼镜片", "форма «кошачий глаз»"),
    "high crown": ("high crown", "高顶", "высокая тулья"), "flat crown": ("flat crown", "平顶", "низкая тулья"),
    "hooked handle": ("hooked handle", "弯柄", "ручка-крюк"), "straight handle": ("straight handle", "直柄", "прямая ручка"),
    "solid back": ("solid back", "实心靠背", "сплошная спинка"), "slatted back": ("slatted back", "条形靠背", "спинка с рейками"),
    "four legs": ("four legs", "四条腿", "четыре ножки"), "pedestal leg": ("pedestal leg", "单柱底座", "одна опора"),
    "round top": ("round top", "圆形桌面", "круглая столешница"), "rectangular top": ("rectangular top", "长方形桌面", "прямоугольная столешница"),
    "two seats": ("two-seater", "双人位", "два места"), "three seats": ("three-seater", "三人位", "три места"),
    "rolled arms": ("rolled arms", "圆扶手", "круглые подлокотники"), "square arms": ("square arms", "方扶手", "прямые подлокотники"),
    "cone shade": ("cone shade", "锥形灯罩", "конусный абажур"), "drum shade": ("drum shade", "鼓形灯罩", "цилиндрический абажур"),
    "globe shade": ("globe shade", "球形灯罩", "шарообразный абажур"), "three shelves": ("three shelves", "三层", "три полки"),
    "five shelves": ("five shelves", "五层", "пять полок"), "straight walls": ("straight walls", "直壁", "прямые стенки"),
    "tapered walls": ("tapered walls", "锥形壁", "сужается книзу"), "round handle": ("round handle", "圆把手", "круглая ручка"),
    "square handle": ("square handle", "方把手", "угловатая ручка"), "gooseneck spout": ("gooseneck spout", "鹅颈壶嘴", "изогнутый носик"),
    "short spout": ("short spout", "短壶嘴", "короткий носик"), "with lid": ("with lid", "带盖", "с крышкой"),
    "without lid": ("without lid", "无盖", "без крышки"), "loop cap": ("loop cap", "提环盖", "крышка с петлёй"),
    "flip cap": ("flip cap", "翻盖", "откидная крышка"), "wide rim": ("wide rim", "宽边", "широкий край"),
    "scalloped rim": ("scalloped rim", "花边", "волнистый край"), "slender neck": ("slender neck", "细颈", "узкое горло"),
    "bulbous body": ("bulbous body", "大肚", "пузатая форма"), "with stand": ("with stand", "带底座", "с подставкой"),
    "without stand": ("without stand", "无底座", "без подставки"), "tower set": ("tower", "塔形", "башня"),
    "pyramid set": ("pyramid", "金字塔形", "пирамида"), "racing body": ("racing car", "赛车款", "гоночный болид"),
    "truck body": ("truck", "卡车款", "грузовик"), "saloon body": ("saloon|sedan", "轿车款", "седан"),
    "with bow": ("with bow", "带蝴蝶结", "с бантом"), "without bow": ("without bow", "无蝴蝶结", "без банта"),
    "small ears": ("small ears", "小耳朵", "маленькие уши"), "big ears": ("big ears", "大耳朵", "большие уши"),
    "long tail": ("long tail", "长尾", "длинный хвост"), "short tail": ("short tail", "短尾", "короткий хвост"),
    "cork stopper": ("cork stopper", "软木塞", "пробка из коры"), "wax seal": ("wax seal", "蜡封", "восковая печать|сургуч"),
    "square bottle": ("square bottle", "方瓶", "квадратная бутылка"), "round bottle": ("round bottle", "圆瓶", "круглая бутылка"),
    "single bottle": ("single bottle", "单瓶", "одна бутылка"), "pack of three": ("pack of three", "三瓶装", "три бутылки"),
    "screw cap": ("screw cap", "旋盖", "винтовая крышка"), "drinking straw": ("drinking straw", "带吸管", "с трубочкой"),
    "box": ("box", "盒装", "коробка"), "tin": ("tin", "罐装", "банка"), "spiral binding": ("spiral binding|ring binding", "线圈装订", "на спирали"),
    "sewn binding": ("sewn binding", "线装", "сшитый переплёт"), "elastic band": ("elastic band", "松紧带", "с резинкой"),
    "no band": ("no band", "无松紧带", "без резинки"), "tube form": ("tube form", "圆筒形", "форма тубуса"),
    "box form": ("box form", "盒形", "форма коробки"), "long blades": ("long blades", "长刃", "длинные лезвия"),
    "short blades": ("short blades", "短刃", "короткие лезвия"), "single camera": ("single camera", "单摄像头", "одна камера"),
    "triple camera": ("triple camera", "三摄像头", "тройная камера"), "round cups": ("round ear cups", "圆耳罩", "круглые чашки"),
    "oval cups": ("oval ear cups", "椭圆耳罩", "овальные чашки"), "microphone": ("with microphone", "带麦克风", "с микрофоном"),
    "no microphone": ("no microphone", "无麦克风", "без микрофона"), "half open": ("half open", "半开", "полуоткрыт"),
    "wide open": ("wide open", "全开", "полностью открыт"), "cylinder form": ("cylinder form", "圆柱形", "форма цилиндра"),
    "cube form": ("cube form", "方形", "форма куба"), "short lens": ("short lens", "短镜头", "короткий объектив"),
    "zoom lens": ("zoom lens", "变焦镜头", "зум-объектив"), "open lid": ("open lid", "开盖", "открытая крышка"),
    "closed lid": ("closed lid", "合盖", "закрытая крышка"), "open box": ("open box", "开盒", "открытая коробка"),
    "closed box": ("closed box", "合盒", "закрытая коробка"), "cards only": ("cards only", "仅牌", "только карты"),
    "cards and chips": ("cards and chips", "含筹码", "карты и фишки"),
    # who it is for
    "women": ("women's|for women", "女士|女款", "для женщин|женская модель"), "men": ("men's|for men", "男士|男款", "для мужчин|мужская модель"),
    "unisex": ("unisex", "男女通用", "унисекс"), "kids": ("for kids|children's", "儿童|童款", "для детей|детская модель"),
    "adults": ("for adults", "成人", "для взрослых"), "everyone": ("for everyone", "全家适用", "для всей семьи"),
    "18+": ("18+", "18岁以上", "18+"),
}  # fmt: skip

_SEASONS = (("new season", "新款", "новинка"), ("gift idea", "送礼佳选", "в подарок"), ("sale", "特价", "скидка"), ("bestseller", "热卖", "хит продаж"))  # fmt: skip
_MENTIONED = {  # how often a title tells it
    "subcategory": 1.0, "colour": 0.95, "pattern": 1.0, "second_colour": 0.85, "brand": 0.85, "material": 0.6, "who": 0.5, "size": 0.3,
}  # fmt: skip
_DETAIL_MENTIONED = 0.6
_SIZES = {"one size": ("one size", "均码", "единый размер")}
_UNITS = {
    "ml": ("ml", "毫升", "мл"), "l": ("l", "升", "л"), "cm": ("cm", "厘米", "см"), "mm": ("mm", "毫米", "мм"), "g": ("g", "克", "г"),
    "pcs": ("pcs", "件", "шт."), "EU": ("EU", "码", "EU"), "inch": ("inch", "英寸", "дюймов"), "GB": ("GB", "GB", "ГБ"),
    "W": ("W", "瓦", "Вт"), "MP": ("MP", "万像素", "Мп"),
}  # fmt: skip


def _column(language: str) -> int:
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {language!r}")
    return LANGUAGES.index(language)


def mentioned(product: Product, language: str = "en") -> dict[str, str]:
    """The visible attributes that the product's title in this language tells, by name.

    A title always tells the pattern unless the product is plain, so `pattern` is always there.

    Args:
        product: whose title.
        language: `en`, `zh` or `ru`.

    Returns:
        A part of `product.visible`.

    Raises:
        ValueError: if the language is not one of the three.
    """
    chance = Chance(product.seed, "mention", product.id, LANGUAGES[_column(language)])
    return {
        name: value
        for name, value in product.visible.items()
        if chance.happens(_MENTIONED.get(name, _DETAIL_MENTIONED))
    }


def title(product: Product, language: str = "en") -> str:
    """The product's title: always what it is, the rest nearly always or now and then, in an order of its own.

    Args:
        product: what is for sale.
        language: `en`, `zh` or `ru`.

    Returns:
        One line, the same on every run.

    Raises:
        ValueError: if the language is not one of the three.

    Example:
        >>> from mmembed.data.catalogue.products import generate_products
        >>> title(generate_products(1)[0], "zh") == title(generate_products(1)[0], "zh")
        True
    """
    at = _column(language)
    told = mentioned(product, language)
    chance = Chance(product.seed, "title", product.id, language)
    said = {name: _say(value, at, chance) for name, value in told.items() if name != "brand"}
    pattern = _pattern_words(product, told, at, chance)
    extras = [said[name] for name, _ in product.details if name in told]
    who = [value for value in (product.gender, "18+" if product.adult else product.age_group) if value]
    if chance.happens(_MENTIONED["who"] if who != ["everyone"] else 0.1):
        extras.append(_say(chance.pick(who), at, chance))
    if product.size and chance.happens(_MENTIONED["size"]):
        extras.append(_size(product.size, at))
    if chance.happens(0.15):
        extras.append(chance.pick(_SEASONS)[at])
    noun, brand = said["subcategory"], told.get("brand", "")
    colour, material = said.get("colour", ""), said.get("material", "")
    if language == "en":
        if chance.happens(0.5):
            lead = [" ".join(part for part in (brand, colour, material, noun) if part)]
            rest = chance.shuffled([part for part in (pattern, *extras) if part])
        else:
            lead = [" ".join(chance.shuffled([part for part in (brand, noun) if part]))]
            rest = chance.shuffled([part for part in (colour, pattern, material, *extras) if part])
        line = ", ".join(lead + rest)
        return line[0].upper() + line[1:]
    if language == "zh":
        lead = [
            part for part in (brand, *chance.shuffled([part for part in (colour, pattern, material) if part])) if part
        ]
        if chance.happens(0.5):
            return " ".join(["".join(lead) + noun, *chance.shuffled(extras)])
        return " ".join(
            [" ".join(part for part in (brand, noun) if part), *chance.shuffled([*lead[bool(brand) :], *extras])]
        )
    colour = f"{chance.pick(('цвет', 'цвет:'))} {colour}" if colour else ""
    lead = [" ".join(chance.shuffled([part for part in (brand, noun) if part]))]
    line = ", ".join(lead + chance.shuffled([part for part in (colour, pattern, material, *extras) if part]))
    return line[0].upper() + line[1:]


def description(product: Product, language: str = "en") -> str:
    """Two or three sentences about the product, which tell most of what its title leaves out.

    Args:
        product: what is for sale.
        language: `en`, `zh` or `ru`.

    Returns:
        One paragraph, the same on every run.

    Raises:
        ValueError: if the language is not one of the three.
    """
    at = _column(language)
    chance = Chance(product.seed, "description", product.id, language)
    noun, colour, material = (
        _say(value, at, chance) for value in (product.subcategory, product.colour, product.material)
    )
    pattern = _pattern_words(product, product.visible, at, chance)
    details = chance.shuffled([_say(value, at, chance) for _, value in product.details])
    who = "18+" if product.adult else product.gender or product.age_group
    price = f"{product.price:.2f}"
    if language == "en":
        first = f"{noun[0].upper() + noun[1:]} by {product.brand} in {colour}" + (f", {pattern}." if pattern else ".")
        second = f"Material: {material}; {', '.join(details)}."
        third = chance.pick(
            (f"Suited {_plain_for(who)}.", f"Price: {price} euro.", "Please check the photos for the details.")
        )
    elif language == "zh":
        first = f"{product.brand}{noun}，颜色为{colour}" + (f"，带有{pattern}。" if pattern else "。")
        second = f"材质：{material}；{'，'.join(details)}。"
        third = chance.pick((f"适用人群：{_say(who, at, chance)}。", f"价格：{price}欧元。", "细节请看照片。"))
    else:
        first = f"{noun[0].upper() + noun[1:]} {product.brand}: цвет {colour}" + (
            f", рисунок: {pattern}." if pattern else "."
        )
        second = f"Материал: {material}; {', '.join(details)}."
        third = chance.pick((f"Кому: {_say(who, at, chance)}.", f"Цена: {price} евро.", "Подробности на фотографиях."))
    return " ".join((first, second, third)) if language != "zh" else first + second + third


def _say(value: str, at: int, chance: Chance) -> str:
    """One of the value's names; the usual one four times in five."""
    names = WORDS[value][at].split("|")
    return names[0] if len(names) == 1 or chance.happens(0.8) else chance.pick(names[1:])


def _pattern_words(product: Product, told: dict[str, str], at: int, chance: Chance) -> str:
    """The pattern with its colour, "" for a plain product; phrased so that nothing has to agree in gender or case."""
    if product.pattern == "plain":
        return ""
    pattern = _say(product.pattern, at, chance)
    if "second_colour" not in told:
        return pattern
    second = WORDS[told["second_colour"]][at].split("|")[0]
    if LANGUAGES[at] == "en":
        return f"{second} {pattern}" if product.pattern != "two-tone" else f"{pattern} with {second}"
    return f"{second}{pattern}" if LANGUAGES[at] == "zh" else f"{pattern} ({second})"


def _size(size: str, at: int) -> str:
    if size in _SIZES:
        return _SIZES[size][at]
    number, _, unit = size.partition(" ")
    if unit not in _UNITS:
        return size
    if unit == "MP" and LANGUAGES[at] == "zh":  # Chinese counts pixels in ten thousands
        number = f"{number}00"
    return f"{number} {_UNITS[unit][at]}" if LANGUAGES[at] != "zh" else f"{number}{_UNITS[unit][at]}"


def _plain_for(who: str) -> str:
    return {"18+": "for adults only", "unisex": "for women and men"}.get(who, f"for {who}")
