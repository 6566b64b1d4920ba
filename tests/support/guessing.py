"""What a row of an audit may show although nothing leaks."""

from collabedit.audit.results import Metric, Row


def finds_everything(row: Row) -> bool:
    """Whether every edited candidate scores above every other one.

    Secret bases are drawn anew in each run, so an interval of 95 % misses chance in one run of
    forty without any leak, and no test may rest on it. With six edits among two dozen candidates or
    more guesses get all of them with a probability below 1e-5; an attack that always works does.
    """
    found = {metric.name: metric.value for metric in row.metrics}
    return found["auc"] == 1.0 and found["recall@n"] == 1.0


def is_near(metric: Metric, chance: float) -> bool:
    """Whether chance is within two and a half times the interval around the value.

    That is nearly five standard deviations: no run in a hundred thousand misses it by chance.
    """
    reach = 2.5 * (metric.high - metric.low) / 2
    return abs(metric.value - chance) <= reach
