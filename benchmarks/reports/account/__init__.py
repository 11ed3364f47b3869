"""The account of a GPU: what `make gpu-account` measures, part by part, each in processes of its own.

| module | what is in it |
|---|---|
| `plan` | the parts, in order, and the seconds that each may take |
| `running` | runs them, and says how each ended |
| `context` | what a part is given: where its rows go, and until when it may run |
| `children` | processes that are forked, watched, and ended in time |
| `scale` | cases and providers, in full size and for the dry run |
| `workers`, `crews` | processes that hold one provider each, and are asked in turn |
| `host`, `correctness`, `warm`, `traces`, `ratios`, `ops`, `counters`, `sanitizer`, `device_tests` | the parts |
| `kernels` | the program whose kernels `counters` reads |
| `caches` | compiled code, taken along and brought back |
| `page` | the table at the end |
"""
