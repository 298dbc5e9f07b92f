"""What stands in the place of what, in the faults of `tools.mutations`, and what is left alone."""

import ast

COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">"),
    ast.LtE: ("<", ">="),
    ast.Gt: (">=", "<"),
    ast.GtE: (">", "<="),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, ...]] = {
    ast.Add: ("-",),
    ast.Sub: ("+",),
    ast.Mult: ("/",),
    ast.Div: ("*",),
    ast.FloorDiv: ("/",),
    ast.Mod: ("*",),
    ast.Pow: ("*",),
    ast.MatMult: ("*",),
}
SIGNS: dict[type[ast.AST], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
}
OPPOSITES = {
    one: other
    for pair in (
        ("min", "max"),
        ("minimum", "maximum"),
        ("floor", "ceil"),
        ("any", "all"),
        ("amin", "amax"),
        ("first_steps", "last_steps"),
    )
    for one, other in (pair, pair[::-1])
}
# Names that stand for one another, of which a wrong one may be written.
WORDS = (
    ("pld", "rdp", "prv"),
    ("poisson", "shuffle", "truncated_poisson", "fixed_size"),
    ("add_or_remove_one", "replace_one"),
    ("constant", "linear", "exponential", "step"),
    ("logarithmic", "geometric", "poisson"),
    ("flat", "adaptive", "normalised"),
    ("running", "done", "cancelled", "failed"),
    ("all steps", "budget", "patience", "time"),
    ("seeded", "secure"),
    ("bookkeeping", "ghost", "hooks", "reference"),
    ("public", "noisy_counts", "article_warm_up"),
    ("cpu", "cuda"),
    ("x", "w", "a"),
)
KEPT_DECORATORS = ("dataclass", "property", "classmethod", "staticmethod", "overload", "cache")
SILENT_CALLS = ("warn", "warning", "info", "debug", "setLevel", "simplefilter", "filterwarnings")
SILENT_KEYWORDS = ("strict", "encoding", "remedy", "stacklevel", "message", "indent", "name")
