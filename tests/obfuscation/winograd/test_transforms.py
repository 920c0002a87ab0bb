from fractions import Fraction

from prichexy.obfuscation.winograd.transforms import FILTER, INPUT, OUTPUT, TILE, WINDOW


def transformed(matrix: tuple[tuple[Fraction | int, ...], ...], values: list[int]) -> list[Fraction]:
    return [
        sum((Fraction(share) * value for share, value in zip(row, values, strict=True)), Fraction(0)) for row in matrix
    ]


def unit(length: int, one: int) -> list[int]:
    return [int(index == one) for index in range(length)]


def test_six_products_are_four_outputs_of_three_taps_exactly() -> None:
    for position in range(WINDOW):  # both are linear in inputs and taps, so units stand for all
        for tap in range(3):
            inputs = transformed(INPUT, unit(WINDOW, position))
            taps = transformed(FILTER, unit(3, tap))
            products = [left * right for left, right in zip(inputs, taps, strict=True)]
            outputs = [sum(share * value for share, value in zip(row, products, strict=True)) for row in OUTPUT]
            assert outputs == [int(position == output + tap) for output in range(TILE)]
