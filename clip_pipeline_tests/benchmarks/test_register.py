"""The made-up submission has the mix that the benchmark states."""

from benchmarks.register import known_facts, submitted_facts


def test_half_of_the_paths_are_known_a_tenth_changed_the_rest_new():
    known = {fact.path: fact for fact in known_facts(10_000)}
    submitted = list(submitted_facts(1_000, known=10_000))
    paths = [fact.path for fact in submitted]
    assert len(set(paths)) == 1_000
    assert sum(known.get(fact.path) == fact for fact in submitted) == 500
    assert sum(fact.path in known and known[fact.path] != fact for fact in submitted) == 100
