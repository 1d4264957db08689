"""How many inputs are generated: a few that stay the same, or ``FUZZ_EXAMPLES`` new ones."""

import os

from hypothesis import HealthCheck, Phase, settings

ALWAYS = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
SAME = {"derandomize": True, "phases": [Phase.explicit, Phase.generate]}  # first failure ends it
settings.register_profile("suite", max_examples=4, **SAME, **ALWAYS)
if "FUZZ_EXAMPLES" in os.environ:
    settings.register_profile("fuzz", max_examples=int(os.environ["FUZZ_EXAMPLES"]), **ALWAYS)
settings.load_profile("fuzz" if "FUZZ_EXAMPLES" in os.environ else "suite")
