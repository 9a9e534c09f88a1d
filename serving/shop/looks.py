"""How things are put on a page: colours by their names, prices, days, short names of customers."""
# Of a colour group's name the last word that is here is the colour, and those before it shade it.
COLOURS = dict(black='#26241f', white='#f6f5f1', grey='#8f8d89', blue='#4a6fa5', pink='#e3a3b4', red='#b03a3a', beige='#d9c6a5', green='#5d8a5b', khaki='#7c7a51', yellow='#e2c14b',
               orange='#d9823b', turquoise='#4fa3a5', purple='#80619b', brown='#7d5a3c', gold='#c0a052', silver='#bfc1c2', bronze='#a0703c', copper='#b06f48', transparent='#e8ecec')
SHADES = dict(dark=('#14120f', .42), light=('#ffffff', .5), greyish=('#8f8d89', .4), greenish=('#5d8a5b', .3), yellowish=('#e2c14b', .3), off=('#e9dfc9', .5))
UNKNOWN = '#c9c3b8'


def tint(
    name: str,  # of a colour group: Dark Blue, Greyish Beige, Bronze/Copper
) -> str:  # #rrggbb
    "A colour for a name."
    words = name.casefold().replace('/', ' ').split(); named = [w for w in words if w in COLOURS]
    colour = COLOURS[named[-1]] if named else UNKNOWN
    for word in words:
        if named and word in SHADES: colour = mixed(colour, *SHADES[word])
    return colour


def mixed(a: str, b: str, share: float) -> str:
    "A colour with a share of another."
    return '#' + ''.join(f'{round(int(a[n:n + 2], 16) * (1 - share) + int(b[n:n + 2], 16) * share):02x}' for n in (1, 3, 5))


def price(value: 'float | None') -> str:
    "A price as the data has it: without a currency, with the digits that matter."
    return '' if value is None else f'{value:,.2f}' if value >= 1 else f'{value:.3g}'


def ago(days: float) -> str:
    "Days before the newest thing that is known."
    return 'today' if days < 1 else 'yesterday' if days < 2 else f'{int(days)} days ago'


def named(about: dict) -> str:
    "What an article is called; not every catalogue has names."
    return about.get('prod_name') or about.get('product_type_name') or f"Article {about.get('article_id', '')}"


def short(customer: str) -> str: return customer if len(customer) <= 12 else f'{customer[:8]}…'
DID = dict(purchase='bought', view='looked at', cart='put in the cart')
