"""A plot as SVG: a few lines, two axes, no library."""

import math

COLOURS = ["#1b6ca8", "#c8553d", "#588157", "#7b2d8b"]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 70, 50, 40, 45


def line_plot(path, title, x_title, y_title, lines, log=False):
    """`lines` is a name and its points; with `log` both axes are logarithmic."""
    scale = (lambda value: math.log10(max(value, 1e-6))) if log else (lambda value: value)
    xs = [scale(x) for points in lines.values() for x, _ in points]
    ys = [scale(y) for points in lines.values() for _, y in points]
    low_y = min(ys) if log else 0
    if log:
        low_y, high_y = math.floor(low_y), math.ceil(max(ys))
    else:
        high_y = max(ys) * 1.1 or 1
    across = lambda x: LEFT + (scale(x) - min(xs)) / ((max(xs) - min(xs)) or 1) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    up = lambda y: HEIGHT - BOTTOM - (scale(y) - low_y) / ((high_y - low_y) or 1) * (HEIGHT - BOTTOM - TOP)  # noqa: E731
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="20" text-anchor="middle" font-size="14">{title}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{x_title}</text>',
        f'<text x="15" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 15 {HEIGHT / 2})">{y_title}</text>',
    ]
    for tick in _ticks(low_y, high_y, log):
        y = up(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
    for x in sorted({x for points in lines.values() for x, _ in points}) if log else [0, 0.25, 0.5, 0.75, 1]:
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_label(x)}</text>')
    for index, (name, points) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        way = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{LEFT + 10}" y="{TOP + 15 + 16 * index}" fill="{colour}">{name}</text>')
    parts.append("</svg>")
    path.write_text("\n".join(parts) + "\n")


def _ticks(low, high, log):
    if log:
        return [10**power for power in range(int(low), int(high) + 1)]
    step = 10 ** math.floor(math.log10(high)) or 1
    step = step if high / step >= 4 else step / 2 if high / step >= 2 else step / 5
    return [step * number for number in range(int(high / step) + 1)]


def _label(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"
