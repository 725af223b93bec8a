"""The words of the tiny world: who, what, where and how."""


def _split(text: str, *, mark: str | None = None) -> tuple[str, ...]:
    """Return the words of a text, cut at spaces or at a mark."""
    return tuple(text.split(mark))


GIRLS = _split("""
    Anna Mia Lucy Emma Clara Nora Ella Rosa Ivy Ruby Maya Lena Sara Alice Julia Grace Hanna Zoe Lily Eva Olive Daisy
    Flora Helen Irene Jane Kate Laura Martha Nina Paula Rachel Sophie Tara Ursula Vera Wendy Amber Bella Carmen Diana
    Edith Fiona Gloria Hazel Iris Joan Karen Linda Monica Naomi Pearl Robin Stella Tess Violet Willa Agnes Betty Cora
    Dora""")
BOYS = _split("""
    Tom Ben Sam Leo Max Jack Oscar Henry Peter Paul David Simon Felix Hugo Oliver Daniel Adam Noah Luke Mark Aaron
    Brian Carl Dennis Edgar Frank George Harold Ivan James Kevin Lewis Martin Nathan Otto Philip Quentin Ralph Steven
    Theo Victor Walter Albert Boris Conrad Derek Ernest Fred Gordon Howard Jasper Kurt Louis Milo Neil Owen Percy Roger
    Stanley Toby""")
NAMES = tuple(name for pair in zip(GIRLS, BOYS, strict=False) for name in pair)
OBJECTS = _split("""
    key book lamp bell ring coin map box cup letter ball hat knife mirror watch flute candle brush spoon basket
    bottle clock drum rope coat glove scarf umbrella camera kettle hammer pencil ticket whistle necklace lantern compass
    magnet button ribbon feather puzzle blanket pillow ladder bucket shovel needle thread purse wallet violin guitar
    trumpet kite marble doll robot puppet crown shield sword helmet statue vase plate bowl fork jug teapot tray napkin
    towel sponge comb razor soap sock shoe boot belt shirt jacket dress apron mask wig badge medal trophy flag banner
    poster stamp notebook diary folder ruler eraser crayon chalk palette easel telescope microscope lens torch battery
    cable radio phone tablet keyboard printer wheel pedal saddle helm anchor oar net hook bait tent sack backpack
    suitcase trunk wagon sled skate racket paddle dart chess domino card dice token pebble shell crystal diamond emerald
    pearl locket bracelet brooch pin clip nail screw wrench saw drill axe rake hose seed bulb pot fan broom mop
    iron""")
COLOURS = _split("""
    red blue green yellow black white brown grey pink purple orange golden silver violet scarlet crimson turquoise
    beige cream navy""")
MATERIALS = _split(
    "wooden glass metal plastic stone paper leather copper steel clay velvet woollen cotton marble bronze ivory"
)
CONTAINERS = _split(
    "in the drawer|on the shelf|under the bed|behind the door|in the cupboard|on the table|under the sofa"
    "|in the closet|on the desk|behind the curtain|in the barrel|on the roof|under the rug|in the cellar"
    "|on the bench|beside the stove|in the attic|on the windowsill|under the bridge|behind the fence"
    "|in the garage|on the porch|near the fountain|in the barn|on the counter|under the stairs"
    "|behind the piano|in the locker|on the balcony|near the gate|in the chest|on the chair|under the tree"
    "|behind the shed|in the oven|on the piano|beside the fireplace|in the well|near the pond|on the wall"
    "|in the cabinet|on the ledge|under the cushion|behind the statue|in the crate|on the mantel"
    "|beside the wardrobe|in the hut|near the chimney|on the stool",
    mark="|",
)
PLACES = _split("""
    garden market school park library station forest beach kitchen museum harbour church farm bakery castle river
    lake mountain village office theatre hospital island valley meadow desert factory airport hotel palace tower temple
    bridge square zoo circus stadium cinema gym bank prison mill windmill lighthouse cave orchard vineyard swamp canyon
    cottage cabin stable courtyard playground laboratory studio gallery workshop tavern inn cafe restaurant pharmacy
    university cathedral monastery shipyard quarry""")
ANIMALS = _split("""
    dog cat horse cow goat sheep rabbit fox bear wolf lion tiger duck goose hen pig mouse rat frog snake turtle
    monkey donkey camel deer otter beaver badger squirrel hedgehog owl eagle parrot swan crow pigeon sparrow penguin
    seal whale dolphin shark crab lizard zebra giraffe elephant panda koala kangaroo leopard hamster pony calf lamb
    puppy kitten falcon peacock raven""")
FOODS = _split("""
    bread cheese soup cake honey rice fish butter milk corn salad pasta pizza porridge jam pie stew chocolate sugar
    salt pepper garlic onion carrot cabbage spinach lettuce tomato potato pumpkin mushroom bean lentil almond walnut
    peanut raisin berry cherry grape lemon melon mango banana apricot coconut yogurt cream sausage bacon ham chicken
    turkey noodle waffle pancake biscuit muffin pretzel popcorn""")
COUNTABLES = _split("""
    apples books coins stamps marbles pencils eggs oranges cards shells buttons flowers cookies stickers toys balls
    pears plums peaches candles tickets cups plates hats keys ribbons stones nuts beads bottles letters maps bells
    rings lamps kites dolls spoons crayons leaves feathers sandwiches tomatoes carrots lemons cakes
    photos""")
HOLDERS = _split("bags boxes jars baskets bowls sacks crates trays drawers pockets")
# A job and where it is done: facts of the world that only the text teaches.
JOBS = {
    "baker": "bakery", "teacher": "school", "doctor": "hospital", "farmer": "farm", "sailor": "harbour",
    "gardener": "garden", "actor": "theatre", "guard": "prison", "pilot": "airport", "miller": "mill",
    "clerk": "office", "monk": "monastery", "priest": "church", "scientist": "laboratory", "painter": "studio",
    "waiter": "restaurant", "cook": "kitchen", "clown": "circus", "banker": "bank", "professor": "university",
    "carpenter": "workshop", "engineer": "factory", "hunter": "forest", "king": "palace", "knight": "castle",
    "librarian": "library", "trainer": "gym", "merchant": "market", "conductor": "station", "keeper": "lighthouse",
}  # fmt: skip
SOUNDS = {
    "dog": "barked", "cat": "meowed", "horse": "neighed", "cow": "mooed", "sheep": "bleated", "lion": "roared",
    "duck": "quacked", "pig": "grunted", "mouse": "squeaked", "frog": "croaked", "snake": "hissed", "wolf": "howled",
    "bear": "growled", "owl": "hooted", "hen": "clucked", "donkey": "brayed", "crow": "cawed", "pigeon": "cooed",
}  # fmt: skip
MOODS = _split("""
    happy sad tired hungry angry proud calm nervous excited lonely curious bored afraid cheerful grateful jealous
    sleepy surprised worried brave gentle patient restless thirsty confused hopeful shy silent thoughtful
    disappointed""")
ADJECTIVES = _split("""
    old small big new little heavy tiny large pretty broken dusty shiny strange beautiful round soft dirty clean
    cheap precious ancient fragile lovely rusty simple smooth narrow wide famous secret""")
ADVERBS = _split("""
    quickly slowly quietly carefully happily sadly gently suddenly loudly softly bravely calmly eagerly gladly kindly
    lazily nervously patiently proudly silently secretly swiftly politely angrily anxiously boldly cheerfully gracefully
    hastily honestly""")
WALKS = _split("walked ran went hurried cycled drove marched travelled wandered rushed sailed strolled rode")
WEATHER = _split("""
    cold warm windy rainy sunny cloudy foggy snowy stormy hot wet dry misty bright dark quiet frosty mild chilly
    humid gloomy""")
TIMES = _split("""
    morning evening afternoon night day Monday Tuesday Wednesday Thursday Friday Saturday Sunday winter spring summer
    autumn weekend holiday""")
RELATIVES = _split(
    "brother sister mother father uncle aunt cousin friend neighbour grandmother grandfather daughter son nephew"
)
ACTIVITIES = _split("""
    singing dancing reading painting swimming fishing cooking running skating drawing writing hiking climbing riding
    knitting sewing chatting sleeping laughing whistling gardening sailing""")
# Words whose capitals the models can learn because every split spells all of them.
CAPITAL_FIRST = _split(
    "red blue green cold warm old new big small happy sad soft dark quiet brave calm wet dry pink grey"
)
CAPITAL_SECOND = _split("""
    river dog cat lamp bell moon sun tree rain snow house fish bird stone wind star road door hat sea boat cake king
    rose bear wolf lake fire gold sand""")
END_WORDS = _split("""
    river garden market school park forest beach kitchen harbour farm castle lake mountain village office island
    valley meadow tower bridge square cave orchard cottage stable tavern hotel bakery church museum""")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
CATEGORIES = {
    "animal": ANIMALS[:24], "food": FOODS[:24], "colour": COLOURS[:12], "place": PLACES[:24], "name": NAMES[:24],
    "job": tuple(JOBS)[:20], "mood": MOODS[:20], "object": OBJECTS[:24],
}  # fmt: skip
# Words that colour a story and that no closing asks for: they make some next words hard to foresee.
VILLAGES = _split("""
    Ashford Brackley Calder Dunmore Eastwick Fairview Glenwood Hartley Kingsley Langdon Marlow Norwood Oakham Penrith
    Ramsey Selby Thornton Underhill Westbury Yarrow Aldgate Bexley Crowden Dalton Elmdale Foxhill Greystone Holloway
    Ironbridge Kendal Lowick Milford Newport Overton Portland Redcliff Stanton Tilbury Upton Wexford""")
TOPICS = _split("""
    freedom history music science courage friendship winter dragons pirates planets dinosaurs magic justice kindness
    memory adventure weather trains rockets volcanoes ghosts holidays poetry football tennis chess politics geography
    chemistry mathematics philosophy religion fashion business travel money health luck silence danger victory
    childhood marriage wisdom thunder lightning islands oceans rivers insects butterflies spiders vampires giants
    elves wizards witches princes soldiers detectives inventors explorers astronauts dancers""")
DEEDS = _split("""
    laughed cried smiled waited listened whispered shouted yawned nodded blushed trembled sighed frowned shivered
    giggled prayed rested slept argued apologised hesitated wondered worked studied practised complained celebrated
    stumbled jumped climbed knelt bowed waved clapped danced sneezed coughed snored mumbled grinned""")
PLANTS = _split("""
    oak pine willow maple birch cedar elm palm ivy rosebush tulip daisy lily orchid poppy sunflower lavender moss
    fern bamboo cactus holly hawthorn chestnut poplar thistle clover mint basil parsley""")
SKY = _split("sun moon wind rain fog snow storm thunder rainbow sky clouds stars mist frost breeze sunset dawn")
SKY_DEEDS = _split("""
    faded appeared vanished returned arrived lingered brightened passed settled gathered spread cleared continued
    softened ended""")
TITLES = _split("captain colonel duchess count bishop mayor judge sheriff emperor princess general admiral")
CLOTHES = _split("""
    sweater trousers sandals slippers uniform cloak raincoat cardigan waistcoat pyjamas overalls shawl bonnet turban
    tunic corset kimono blouse jumper hoodie""")
AGES = _split(
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty"
)
LANGUAGES = _split("""
    English French German Spanish Italian Greek Latin Russian Polish Danish Dutch Turkish Arabic Chinese Japanese
    Hindi Finnish Welsh Irish Hungarian""")
