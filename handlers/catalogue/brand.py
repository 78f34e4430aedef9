"""A brand's colour: the letters that can be read on it, and the shade of it that can be read on a page."""

_READABLE = 4.5  # to 1, for letters (WCAG 2.2, 1.4.3); the frame of a focus needs 3


def text_on(color: str) -> str:
    """Black or white, whichever is read more easily on a colour; one of them always has a contrast above 4.5 to 1."""
    return "#ffffff" if contrast(color, "#ffffff") >= contrast(color, "#000000") else "#000000"


def readable_on(background: str, color: str) -> str:
    """The colour itself, or as little darker or lighter as letters in it need to be read on this background."""
    end = text_on(background)
    steps = (_mixed(color, end, step / 20) for step in range(21))
    return next(one for one in steps if contrast(one, background) >= _READABLE)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21 (WCAG 2.2, contrast ratio)."""
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _mixed(color: str, other: str, share: float) -> str:
    pairs = zip(_parts(color), _parts(other), strict=True)
    return "#" + "".join(f"{round(one + (two - one) * share):02x}" for one, two in pairs)


def _parts(color: str) -> list[int]:
    return [int(color[place : place + 2], 16) for place in (1, 3, 5)]


def _luminance(color: str) -> float:
    shares = [part / 255 for part in _parts(color)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
