//! options: the conventions of the mathematics judge. The defaults follow Math-Verify where that is sensible.

/// Conventions that mathematics alone does not settle.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// A unit on one side only is ignored: `126` is `126 hours`. Units on both sides must agree: 52 cm is not 52 km.
    pub units_optional: bool,
    /// `28\%` as the reference accepts `28`; `0.28` is accepted in any case. `9` never accepts `9\%`.
    pub percent_as_number: bool,
    /// `45` and `45^\circ` are the same in either direction.
    pub degrees_optional: bool,
    /// An exact value that does not end as a decimal is accepted when it rounds to the reference's digits: 70/9 for 7.78.
    pub round_to_gold: bool,
    /// `(1, 2)` may be an interval when the other side is one: `1 < x < 2`.
    pub interval_as_inequality: bool,
    /// A list without brackets equals a tuple with the same elements in the same order: `p, q = 3, 2` and `(3, 2)`.
    pub list_as_tuple: bool,
    /// The order of a list without brackets matters.
    pub ordered_lists: bool,
    /// `x = 5` equals `5`, and `f(x) = x + 1` equals `x + 1`.
    pub assignment_as_value: bool,
    /// `(D) 25` and `D` are the choice D when the reference is a single letter.
    pub choice_letters: bool,
    /// Digits without their base equal the same digits with it: `4210` for `4210_5`.
    pub base_optional: bool,
    /// A time of day set as text equals one that is half a formula: `\text{4:30 p.m.}` and `4:30 \text{ p.m.}`.
    pub times_across_fonts: bool,
    /// Boxes that stand next to each other are one answer with several parts.
    pub join_boxes: bool,
    /// Steps for one comparison. A step is about a machine word of exact arithmetic.
    pub step_budget: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            units_optional: true,
            percent_as_number: true,
            degrees_optional: true,
            round_to_gold: true,
            interval_as_inequality: true,
            list_as_tuple: true,
            ordered_lists: false,
            assignment_as_value: true,
            choice_letters: true,
            base_optional: true,
            times_across_fonts: false,
            join_boxes: true,
            step_budget: 60_000,
        }
    }
}

impl Options {
    /// The options that differ from the defaults: `units_optional=false,step_budget=10`.
    pub fn differing(&self) -> String {
        let default = Options::default();
        let mut parts = Vec::new();
        let mut flag = |name: &str, value: bool, usual: bool| {
            if value != usual {
                parts.push(format!("{name}={value}"));
            }
        };
        flag("units_optional", self.units_optional, default.units_optional);
        flag("percent_as_number", self.percent_as_number, default.percent_as_number);
        flag("degrees_optional", self.degrees_optional, default.degrees_optional);
        flag("round_to_gold", self.round_to_gold, default.round_to_gold);
        flag("interval_as_inequality", self.interval_as_inequality, default.interval_as_inequality);
        flag("list_as_tuple", self.list_as_tuple, default.list_as_tuple);
        flag("ordered_lists", self.ordered_lists, default.ordered_lists);
        flag("assignment_as_value", self.assignment_as_value, default.assignment_as_value);
        flag("choice_letters", self.choice_letters, default.choice_letters);
        flag("base_optional", self.base_optional, default.base_optional);
        flag("times_across_fonts", self.times_across_fonts, default.times_across_fonts);
        flag("join_boxes", self.join_boxes, default.join_boxes);
        if self.step_budget != default.step_budget {
            parts.push(format!("step_budget={}", self.step_budget));
        }
        parts.join(",")
    }
}
