"""How many inputs are generated: a few that stay the same, or ``FUZZ_EXAMPLES`` new ones."""

import os

from hypothesis import HealthCheck, Phase, settings

ALWAYS = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
SAME = {"derandomize": True, "phases": [Phase.explicit, Phase.generate]}  # first failure ends it
N_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 2))
MANY = 100 * N_EXAMPLES  # of inputs of which one is quickly tried
NEW = "FUZZ_EXAMPLES" in os.environ

settings.register_profile("skpert", max_examples=N_EXAMPLES, **ALWAYS, **({} if NEW else SAME))
settings.load_profile("skpert")
