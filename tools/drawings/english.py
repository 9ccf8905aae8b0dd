"""Translations of foreign words in file names of openclipart, and corrections of captions.

A drawing whose caption is corrected to `None` is left out: its caption does not describe it.
"""

_PAIRS = """
acquila eagle | airone heron | ambulanza ambulance | ambulans ambulance | anatra duck |
antilope antelope | aragosta lobster | asse ironing board | baloon balloon | barattolo jar |
betoniera concrete mixer | bicicletta bicycle | biglia marble | borsa bag | bottiglia bottle |
bussola compass | cammello camel | camion truck | campana bell | cane dog | canguro kangaroo |
cappello hat | carota carrot | carpentiere carpenter | carretta wheelbarrow | casa house |
cassetta box | cavallo horse | cervo deer | cesto basket | cestino basket | chiave key |
chitarra guitar | ciliegia cherry | cigno swan | ciuccio pacifier | civetta owl |
clessidra hourglass | coccinella ladybug | coltello knife | colombo pigeon | coniglio rabbit |
corridore runner | cornetto ice cream cone | cronometro stopwatch | delfino dolphin |
dino dinosaur | dinosauri dinosaurs | dinosauro dinosaur | donna woman | elefante elephant |
fabbrica factory | farfalla butterfly | fattoria farm | ferro iron | fiore flower |
fiori flowers | foglia leaf | foglie leaves | forbici scissors | formica ant |
fragola strawberry | fungo mushroom | gabbiano seagull | gallina hen | gallo rooster | gatto cat |
gatti cats | giraffa giraffe | glace ice cream | gufo owl | guanti gloves | insetto insect |
lampada lamp | lampadina light bulb | leone lion | lettera letter | libellula dragonfly |
libro book | livella spirit level | lucchetto padlock | lucertola lizard | lucertolona lizard |
luna moon | lupo wolf | macchina machine | maiale pig | martello hammer | matita pencil |
mela apple | microfono microphone | mucca cow | nave ship | occhiali eyeglasses |
ombrello umbrella | orologio clock | orso bear | palloncini balloons | pallone ball |
panda panda | papera duck | pappagallo parrot | pasteque watermelon | pattinatrice skater |
pecora sheep | pennello paintbrush | pennuto bird | pentola pot | pera pear | pesce fish |
pescetto fish | pianta plant | pinguino penguin | pinza pliers | pinzatrice stapler |
pipistrello bat | pollo chicken | poltrona armchair | pomodori tomatoes | pomodoro tomato |
principessa princess | provetta test tube | puntine thumbtacks | ragazza girl | ragazzo boy |
ragno spider | ramarro lizard | rana frog | ravanello radish | rondine swallow | rosa rose |
ruota gear | sacco sleeping bag | scala ladder | scarpa shoe | scimmia monkey | secchio bucket |
sedia chair | serpente snake | serratura lock | signorina young lady | siringa syringe |
sole sun | spaventapasseri scarecrow | squalo shark | stampante printer | stella star |
stetoscopio stethoscope | tartaruga turtle | tavolo table | tazza cup | telecamera video camera |
telefono telephone | televisore television | tigre tiger | topo mouse | torta cake |
trattore tractor | treno train | uccelli birds | uccello bird | uomo man | uva grapes |
vacca cow | valigia suitcase | valigie suitcases | vaso vase | volpe fox | zebra zebra |
zucca pumpkin |
bowsaw saw | bypasspruner pruning shears | palmtree palm tree | scodella cat bowl
"""
ENGLISH = dict(pair.split(None, 1) for pair in " ".join(_PAIRS.split()).split(" | "))

_LEFT_OUT = """
diamante, gnome,
abracadabra jean, adult, base, black lab, body, brake pads, buddy, bullet hole, chat, children
cap, clips, cross, crew neck, double, emblem, enthusiast, erlenmeyer jean, faces, female, male,
firewall, food, frame, full bloom, gearshift car, glossy, hacker emblem, handheld gps, hand cream,
hash, hub, human, icons, jacob, john, knitting, laptop clock, light, lovely, machine, mascot, maya
head, mix, navigation display panel, olivier one jean, olivier one jean victor, orange station,
packman, panel, pavement, phone pen, plush, pollen flower, pollen tree, port hub, port switch,
portrait, projectile, psycho, rich young, rilievo, roman, route, scotch, self portrait, sexy lady,
silvia, six, stripper, team sketch, three eyes, tile orange, tool, tools, tsunami warning sign
bob, unit blocks, user, video, video lcd, wmd, youngster, tamerlane chess, square table,
patchwork, pocket, soviet shuttle, wild summer shorts, signore, departing plane, picture,
photograph, camera small, connector, controller, controller stick, gauge, dam, hail, haze,
drizzle, tape measure tape, gate machine, round, barrier, golf hole, paint, pollen, hide girl, hot
pot, cloth, delta, masks
"""
_CORRECTIONS = """
another apple = apple
apple fruit = apple
arrow heart = heart with arrow
heart arrow = heart with arrow
aussie hat = hat
autos = cars
bach bust = bust of a man
basic plate = plate
beachball = beach ball
beethoven bust = bust of a man
black and white = chess pieces
blowling ball = bowling ball
candle sticks = candles
card figure jack = jack playing card
card figure joker = joker
card figure king = king playing card
card figure queen = queen playing card
cassette video = video cassette
cat scrathing post = cat scratching post
cellular phone = cell phone
clothes cardigan = cardigan
cone soft chocolate = chocolate ice cream cone
cone soft vanilla = vanilla ice cream cone
cuppa = cup of tea
dices = dice
double note = musical note
double note two = musical note
ear body part = ear
easter = easter egg
eris apple = apple
fall coloured leaf = autumn leaf
fall coloured tree = autumn tree
farmer = omelette
fifties jukebox = jukebox
firefighter truck = fire engine
fireworks stick = firework rocket
fishes = fish
flat cake = cake
football ball = football
formula one car = racing car
funny music note = musical note
generic muffin = muffin
generic ticket = ticket
geranium in pot = geranium in a pot
gis computer = computer
golf driver swing = golfer
gramma = old woman
grandpa = old man
grass hopper = grasshopper
gum = chewing gum
handel bust = bust of a man
harp instrument = harp
hat clothing = hat
help books = books
herald trumpet = trumpet
hummer = hummer car
ice cream cone scoop = ice cream cone
icecream = ice cream
icecream cone = ice cream cone
knot bowline = knot
knot clove hitch = knot
knot figure eight = knot
knot half hitches = knot
knot square = knot
koala bear = koala
lady beetle = ladybug
light house = lighthouse
lotas = lotus
mad little ship = ship
magnifing glass = magnifying glass
makeups = makeup
mans shoe = man's shoe
microwaves = microwave
mouth body part = mouth
new penguin = penguin
nodding donkey = oil pump
pan cakes = pancakes
pancakes berries = pancakes with berries
pet paw = paw
pimp hat = hat
plain tree = tree
pop can = soda can
poultry leg = chicken leg
reminder hand = hand with a string on a finger
rich young man = man
rpm record = vinyl record
rpm records = vinyl records
sailboat with label points = sailboat
sandwich one jean = sandwich
sandwich one jean victor = sandwich
silhouette female = woman
silhouette male = man
slalom water skier = water skier
slate apple = apple
slim cell phone = cell phone
smiley = smiley face
sprint cell phone = cell phone
stick man = stick figure
sub = submarine sandwich
sun flower = sunflower
symbolic boy = boy
table tennis racquets = ping pong paddles
thongs = flip-flops
tie clothing = tie
tree whit fruits = fruit tree
trumpet pocket = trumpet
trumpet straight mute = trumpet
various servers = servers
vinyl disc = vinyl record
volley ball = volleyball
volleyball ball = volleyball
warp fish = fish
water can = watering can
water melon = watermelon
womans boot = woman's boot
womans hat = woman's hat
womans sandal = woman's sandal
yoga person = person doing yoga
"""
CORRECTED = dict(line.split(" = ") for line in _CORRECTIONS.strip().splitlines())
CORRECTED.update(dict.fromkeys(" ".join(_LEFT_OUT.split()).split(", ")))
