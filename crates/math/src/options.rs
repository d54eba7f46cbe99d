//! options: the conventions of the mathematics judge. The defaults follow Math-Verify where that is sensible.

/// What a scale word (`million`, `k`, `basis points`) does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// It multiplies: `24 million` is 24000000, and neither 24 nor 24 billion.
    Value,
    /// One on one side only says nothing: `24` is `24 million` in either direction. Two must agree.
    Ignore,
    /// A number without one is meant in the reference's: `24` for the reference `24 million`, and not the reverse.
    FromGold,
}

/// What a percent sign in front of a reference without one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Percent {
    /// It divides by a hundred: `20\%` is 0.2 and not 20.
    Value,
    /// It may be there: `20\%` for the reference 20, where questions ask "what percent" and references are bare numbers.
    SignOptional,
}

/// Conventions that mathematics alone does not settle.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// A unit on one side only is ignored: `126` is `126 hours`. Units on both sides must agree: 52 cm is not 52 km.
    pub units_optional: bool,
    /// What scale words do.
    pub scale: Scale,
    /// `28\%` as the reference accepts `28`; `0.28` is accepted in any case.
    pub percent_as_number: bool,
    /// What a percent sign that the reference does not have does.
    pub percent: Percent,
    /// A number alone in round brackets is negative, as accountants write it: `(12.6)` is -12.6.
    pub accounting_negatives: bool,
    /// `45` and `45^\circ` are the same in either direction.
    pub degrees_optional: bool,
    /// An exact value that does not end as a decimal is accepted when it rounds to the reference's digits: 70/9 for 7.78.
    pub round_to_gold: bool,
    /// A decimal with six significant digits or more is accepted when it is an exact reference, rounded at its last digit:
    /// 0.333333 for 1/3.
    pub rounded_decimals: bool,
    /// `(1, 2)` may be an interval when the other side is one: `1 < x < 2`.
    pub interval_as_inequality: bool,
    /// A list without brackets equals a tuple with the same elements in the same order: `p, q = 3, 2` and `(3, 2)`.
    pub list_as_tuple: bool,
    /// Three or more elements in square brackets are a list: `[1, 2, 3]` and `1, 2, 3`.
    pub square_lists: bool,
    /// The order of a list without brackets matters.
    pub ordered_lists: bool,
    /// `x = 5` equals `5`, and `f(x) = x + 1` equals `x + 1`.
    pub assignment_as_value: bool,
    /// A sum of names names a number: `m + n = 293` equals `293`.
    pub named_sums: bool,
    /// Words behind an answer that qualify it are ignored when one side has none: `for some constant c`, `ways to choose`.
    pub qualifiers_optional: bool,
    /// `C_6^2` may count combinations and `A_5^2` arrangements: 15 and 20.
    pub combinations: bool,
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
            scale: Scale::Value,
            percent_as_number: true,
            percent: Percent::Value,
            accounting_negatives: false,
            degrees_optional: true,
            round_to_gold: true,
            rounded_decimals: true,
            interval_as_inequality: true,
            list_as_tuple: true,
            square_lists: true,
            ordered_lists: false,
            assignment_as_value: true,
            named_sums: true,
            qualifiers_optional: true,
            combinations: true,
            choice_letters: true,
            base_optional: true,
            times_across_fonts: false,
            join_boxes: true,
            step_budget: 60_000,
        }
    }
}

/// Options with two values.
const FLAGS: [&str; 18] = [
    "units_optional",
    "percent_as_number",
    "accounting_negatives",
    "degrees_optional",
    "round_to_gold",
    "rounded_decimals",
    "interval_as_inequality",
    "list_as_tuple",
    "square_lists",
    "ordered_lists",
    "assignment_as_value",
    "named_sums",
    "qualifiers_optional",
    "combinations",
    "choice_letters",
    "base_optional",
    "times_across_fonts",
    "join_boxes",
];

pub(crate) const SCALES: [(&str, Scale); 3] =
    [("value", Scale::Value), ("ignore", Scale::Ignore), ("from_gold", Scale::FromGold)];
pub(crate) const PERCENTS: [(&str, Percent); 2] = [("value", Percent::Value), ("sign_optional", Percent::SignOptional)];

impl Options {
    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "units_optional" => &mut self.units_optional,
            "percent_as_number" => &mut self.percent_as_number,
            "accounting_negatives" => &mut self.accounting_negatives,
            "degrees_optional" => &mut self.degrees_optional,
            "round_to_gold" => &mut self.round_to_gold,
            "rounded_decimals" => &mut self.rounded_decimals,
            "interval_as_inequality" => &mut self.interval_as_inequality,
            "list_as_tuple" => &mut self.list_as_tuple,
            "square_lists" => &mut self.square_lists,
            "ordered_lists" => &mut self.ordered_lists,
            "assignment_as_value" => &mut self.assignment_as_value,
            "named_sums" => &mut self.named_sums,
            "qualifiers_optional" => &mut self.qualifiers_optional,
            "combinations" => &mut self.combinations,
            "choice_letters" => &mut self.choice_letters,
            "base_optional" => &mut self.base_optional,
            "times_across_fonts" => &mut self.times_across_fonts,
            "join_boxes" => &mut self.join_boxes,
            _ => return None,
        })
    }

    /// Sets the option `name`: a flag takes `true` and `false`, `scale` and `percent` their values' names, `step_budget` a
    /// whole number.
    ///
    /// # Errors
    /// When there is no such option, or it has no such value; the message says what there is.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some(own) = self.flag(name) {
            *own = flag(name, value)?;
            return Ok(());
        }
        match name {
            "scale" => self.scale = named(&SCALES, name, value)?,
            "percent" => self.percent = named(&PERCENTS, name, value)?,
            "step_budget" => {
                self.step_budget = value
                    .parse()
                    .map_err(|_| format!("option `step_budget` is a whole number of steps, not `{value}`"))?;
            }
            _ => {
                return Err(format!(
                    "there is no option `{name}`; there are scale, percent, step_budget, {}",
                    FLAGS.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// These options with one more set: `Options::default().with("scale", "from_gold")?`.
    ///
    /// # Errors
    /// As of [`Options::set`].
    pub fn with(mut self, name: &str, value: &str) -> Result<Options, String> {
        self.set(name, value)?;
        Ok(self)
    }

    /// All options by name, with their values as [`Options::set`] takes them.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut own = self.clone();
        let flags = FLAGS.into_iter().map(|name| (name, own.flag(name).is_some_and(|flag| *flag).to_string()));
        let mut settings: Vec<_> = flags.collect();
        settings.push(("scale", shown(&SCALES, self.scale)));
        settings.push(("percent", shown(&PERCENTS, self.percent)));
        settings.push(("step_budget", self.step_budget.to_string()));
        settings
    }

    /// The options that differ from the defaults: `units_optional=false,step_budget=10`.
    pub fn differing(&self) -> String {
        if *self == Options::default() {
            return String::new();
        }
        let pairs = self.settings().into_iter().zip(Options::default().settings());
        let differing = pairs.filter(|(own, usual)| own != usual).map(|((name, value), _)| format!("{name}={value}"));
        differing.collect::<Vec<_>>().join(",")
    }
}

/// What the option `name` is when it is given as `value`.
pub(crate) fn named<T: Copy>(values: &[(&str, T)], name: &str, value: &str) -> Result<T, String> {
    let found = values.iter().find(|(known, _)| *known == value).map(|(_, value)| *value);
    found.ok_or_else(|| unknown_value(name, value, &values.iter().map(|(known, _)| *known).collect::<Vec<_>>()))
}

/// What the option `name` with two values is when it is given as `value`.
pub(crate) fn flag(name: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| unknown_value(name, value, &["true", "false"]))
}

/// What is said of a value that an option has not.
fn unknown_value(name: &str, value: &str, known: &[&str]) -> String {
    format!("option `{name}` has no value `{value}`: it is one of {}", known.join(", "))
}

/// The name of a value.
pub(crate) fn shown<T: PartialEq>(values: &[(&str, T)], value: T) -> String {
    values.iter().find(|(_, known)| *known == value).map_or_else(String::new, |(name, _)| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_set_by_name_and_shown_when_it_differs() {
        for name in FLAGS {
            let mut options = Options::default();
            let usual = *options.flag(name).expect("a flag");
            options.set(name, &(!usual).to_string()).expect("a flag");
            assert_eq!(options.differing(), format!("{name}={}", !usual));
            options.set(name, &usual.to_string()).expect("a flag");
            assert_eq!(options, Options::default());
        }
        let mut options = Options::default();
        for (name, value) in [("scale", "from_gold"), ("percent", "sign_optional"), ("step_budget", "10")] {
            options.set(name, value).expect("an option");
        }
        assert_eq!(options.differing(), "scale=from_gold,percent=sign_optional,step_budget=10");
    }

    #[test]
    fn mistakes_are_told() {
        let mut options = Options::default();
        for (name, value) in [("scales", "value"), ("scale", "gold"), ("units_optional", "no"), ("step_budget", "-1")] {
            let message = options.set(name, value).expect_err("a mistake");
            assert!(message.contains(name) || message.contains(value), "{message}");
        }
        assert_eq!(options, Options::default());
    }
}
