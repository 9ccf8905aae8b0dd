"""Lists of words by which names of visible objects are selected as captions."""


def word_set(text):
    """Returns the set of the words of a text."""
    return frozenset(text.split())


# Words of user interfaces and signs: icons with these names do not show an object.
INTERFACE = word_set("""
    abdominal acoustic adapter add adobe afferent agents ai airport align alipay allergens
    amazon analytics android api app application aquarius aries arrow arrows artboard assistant
    asterisk at attention audit automatic avatar axis bachelor back backward bar barrier bars
    bathroom batman battery benz bin bitcoin blank block board bookmark booth border bot bottom
    brand bring browser bubble bug business button capacitor caps capsule caption card cards
    cassette cast category cell cellular center chart chassis chat check checklist chip chips
    chrome circle circuit click clippers clockwise close code coding collapse column columns
    come command commodity component composition config connect connection consignment contact
    content control conversion copy copyright corner cpu crack creative crop cross crypto
    cryptocurrency crystal css csv currency cursor customer cutter dam dash dashboard data
    database deal death decent delete deposit design desktop developer device devices diagram
    dial direction disable disabled disk display distribute dollar dot double down download drag
    drop drugs edit editor effects efferent eight electricity email empty endocrine endpoint
    energy enter equal equalizer error exchange exit expand export fabric facebook faq favorite
    favourite feed female figma file files fill filter finance finder first five flip flirt
    focus folder font form forward four foursquare frame full function gemini gesture gif globe
    google gps graph gravity grid group growth guest hair half handle hash hdr heading heart
    hexagon hide home hook horizontal html id image import inbox incoming increase indent
    induction info information input insert intellectual intercom interface intersect ipod iso
    item javascript joker justify kanban lab label landing landscape language launch layer
    layers layout lcd led left lens leo libra like line link liqueur list loading local location
    lock log login logo logout loop mac mail male mall management map margin marker marketing
    master maximize maya media member menu merge message minimize mobile mode model module
    monitor monitoring more mosaic move multiple muscle muslim mute nav navigation nests network
    next nfc nine nmr node none note notification number off on one open option order oscillator
    outgoing outline page panties parabola paragraph parallel paste path patient pause payment
    pc pdf people peoples percent performance perfumer person photo php pin pixel planner
    planning play player plug plus point pointer poll portrait position post potentiometer
    predator presentation preview previous pro product products profile programming protocol psd
    qr query question quote radiation railroad ram rank ranking rate rating read receive
    recording rectangle redo reel refraction refresh reject release reload remove repeat replay
    report reset resistor resize restore restroom return reverse ribbon right rotate round
    router row rows rss rule safari sagittarius save scan scene scorpio screen scroll sdk search
    second section select selection send seo server servers service setting settings seven shape
    share shift shipment shortcut shortcuts show shrink sign signal sim sinusoid site six skin
    skip slave slide slider smiley sms solar sort source space spacing spade sperm spider split
    sql square stack standard statistics status step stereo stock stop storage strategic
    strategy structure subtract success support survey swap switch symmetry sync system tab tag
    target task taste team template ten terminal terrace text third three time timer toggle
    toilet tool tools top touch trace track trademark transaction transfer transform translate
    transport transporter trending tv twitter two type ui underline undo ungroup unlink up
    upload url usb user users uterus ux validation vector vectors verified vertical vicia video
    view vip virus voice volume vpn waistline warning warp web website widget wifi window
    windows word work worker world wrap wrong www xml yen zero zip zoom
""")
# Nouns of no visible object, in spite of WordNet.
NOT_SEEN = word_set("""
    abstract air area background ball-bearing being body bottom building-block creation design
    end example form god head-count icon icons inhabitant kind line lord lot mass matter member
    menu part pattern piece place set side sport sports spread state thing top unit way work
    zigzag
""")
# Objects that are not objects in their two most frequent WordNet senses.
SEEN_TOO = word_set("""
    certificate fingerprint fire fries gift handshake katana letter lightning longsword
    newspaper note nunchaku present rainbow snowman star t-shirt ticket wrench
""")
# Second words of names of objects that WordNet does not list, such as "chef hat".
HEADS = word_set("""
    bag ball basket bean bed boot booth bottle bowl box brush building cage cap car cart case
    chair chick clock coat cup desk door drill face fish flower fruit glass glove hat horse
    house knife ladder lamp leaf machine mask meat mirror mug net pan pen plate pole pot rack
    seat ship shoe skate stand station stick stroller suit tank tent tower tray tree truck
    umbrella wheel
""")
# First words that only name the kind of the object.
CATEGORIES = word_set("""
    clothes fruit instrument instruments kitchenware seafood vegetable vegetables weather
""")
# Last words of names of icons that distinguish variants.
ICON_ENDINGS = word_set("color duo fill filled five flat four one three two")
# Colours that are moved before the noun.
LAST_COLOURS = word_set("black blue brown gray green grey pink purple red white yellow")
