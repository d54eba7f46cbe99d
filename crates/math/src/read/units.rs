//! units: names of units and currencies, their dimension and size.

use num_bigint::BigInt;
use num_rational::BigRational;

/// A unit: what it measures and how large it is in that dimension's base unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Sorted (dimension, exponent) pairs.
    pub dimension: Vec<(String, i32)>,
    /// Size in base units.
    pub scale: BigRational,
}

/// Name, dimension, size as numerator and denominator.
type Entry = (&'static str, &'static str, i64, i64);

/// Units with their usual spellings. Plurals ending in `s` are found too. Dimensions starting with `#` are counts of things.
const UNITS: &[Entry] = &[
    ("m", "length", 1, 1),
    ("meter", "length", 1, 1),
    ("metre", "length", 1, 1),
    ("mm", "length", 1, 1000),
    ("millimeter", "length", 1, 1000),
    ("millimetre", "length", 1, 1000),
    ("cm", "length", 1, 100),
    ("centimeter", "length", 1, 100),
    ("centimetre", "length", 1, 100),
    ("dm", "length", 1, 10),
    ("decimeter", "length", 1, 10),
    ("km", "length", 1000, 1),
    ("kilometer", "length", 1000, 1),
    ("kilometre", "length", 1000, 1),
    ("nm", "length", 1, 1_000_000_000),
    ("nanometer", "length", 1, 1_000_000_000),
    ("micrometer", "length", 1, 1_000_000),
    ("micron", "length", 1, 1_000_000),
    ("in", "length", 254, 10000),
    ("inch", "length", 254, 10000),
    ("inches", "length", 254, 10000),
    ("ft", "length", 3048, 10000),
    ("foot", "length", 3048, 10000),
    ("feet", "length", 3048, 10000),
    ("yd", "length", 9144, 10000),
    ("yard", "length", 9144, 10000),
    ("mi", "length", 1_609_344, 1000),
    ("mile", "length", 1_609_344, 1000),
    ("g", "mass", 1, 1000),
    ("gram", "mass", 1, 1000),
    ("kg", "mass", 1, 1),
    ("kilogram", "mass", 1, 1),
    ("mg", "mass", 1, 1_000_000),
    ("milligram", "mass", 1, 1_000_000),
    ("ton", "mass", 1000, 1),
    ("tonne", "mass", 1000, 1),
    ("lb", "mass", 45_359_237, 100_000_000),
    ("pound", "mass", 45_359_237, 100_000_000),
    ("oz", "mass", 45_359_237, 1_600_000_000),
    ("ounce", "mass", 45_359_237, 1_600_000_000),
    ("s", "time", 1, 1),
    ("sec", "time", 1, 1),
    ("second", "time", 1, 1),
    ("ms", "time", 1, 1000),
    ("min", "time", 60, 1),
    ("minute", "time", 60, 1),
    ("h", "time", 3600, 1),
    ("hr", "time", 3600, 1),
    ("hour", "time", 3600, 1),
    ("day", "time", 86400, 1),
    ("week", "time", 604_800, 1),
    ("month", "month", 1, 1),
    ("year", "month", 12, 1),
    ("yr", "month", 12, 1),
    ("decade", "month", 120, 1),
    ("century", "month", 1200, 1),
    ("centuries", "month", 1200, 1),
    ("L", "volume", 1, 1000),
    ("l", "volume", 1, 1000),
    ("liter", "volume", 1, 1000),
    ("litre", "volume", 1, 1000),
    ("mL", "volume", 1, 1_000_000),
    ("ml", "volume", 1, 1_000_000),
    ("milliliter", "volume", 1, 1_000_000),
    ("millilitre", "volume", 1, 1_000_000),
    ("gallon", "gallon", 1, 1),
    ("gal", "gallon", 1, 1),
    ("quart", "gallon", 1, 4),
    ("pint", "gallon", 1, 8),
    ("cup", "gallon", 1, 16),
    ("dollar", "dollar", 1, 1),
    ("usd", "dollar", 1, 1),
    ("USD", "dollar", 1, 1),
    ("buck", "dollar", 1, 1),
    ("cent", "dollar", 1, 100),
    ("euro", "euro", 1, 1),
    ("EUR", "euro", 1, 1),
    ("yuan", "yuan", 1, 1),
    ("RMB", "yuan", 1, 1),
    ("yen", "yen", 1, 1),
    ("rupee", "rupee", 1, 1),
    ("Rs", "rupee", 1, 1),
    ("GBP", "sterling", 1, 1),
    ("penny", "dollar", 1, 100),
    ("pennies", "dollar", 1, 100),
    ("radian", "angle", 1, 1),
    ("rad", "angle", 1, 1),
    ("revolution", "turn", 1, 1),
    ("rpm", "rpm", 1, 1),
    ("V", "volt", 1, 1),
    ("volt", "volt", 1, 1),
    ("A", "ampere", 1, 1),
    ("amp", "ampere", 1, 1),
    ("ampere", "ampere", 1, 1),
    ("ohm", "ohm", 1, 1),
    ("Hz", "hertz", 1, 1),
    ("kHz", "hertz", 1000, 1),
    ("MHz", "hertz", 1_000_000, 1),
    ("GHz", "hertz", 1_000_000_000, 1),
    ("K", "kelvin", 1, 1),
    ("kelvin", "kelvin", 1, 1),
    ("mol", "mole", 1, 1),
    ("mole", "mole", 1, 1),
    ("C", "celsius", 1, 1),
    ("F", "fahrenheit", 1, 1),
    ("eV", "electronvolt", 1, 1),
    ("MeV", "electronvolt", 1_000_000, 1),
    ("keV", "electronvolt", 1000, 1),
    ("GeV", "electronvolt", 1_000_000_000, 1),
    ("acre", "acre", 1, 1),
    ("bit", "bit", 1, 1),
    ("byte", "bit", 8, 1),
    ("unit", "#unit", 1, 1),
    ("AU", "au", 1, 1),
    ("erg", "erg", 1, 1),
    ("angstrom", "length", 1, 10_000_000_000),
    ("lightyear", "lightyear", 1, 1),
    ("pc", "parsec", 1, 1),
    ("kpc", "parsec", 1000, 1),
    ("person", "#people", 1, 1),
    ("people", "#people", 1, 1),
    ("child", "#children", 1, 1),
    ("children", "#children", 1, 1),
    ("women", "#women", 1, 1),
    ("men", "#men", 1, 1),
    ("boxes", "#box", 1, 1),
];

/// Units made of others: powers of metre, kilogram and second, and the scale as a fraction.
type Derived = (&'static str, [i32; 3], i64, i64);

/// As in [`UNITS`].
const DERIVED: &[Derived] = &[
    ("mph", [1, 0, -1], 1397, 3125),
    ("kph", [1, 0, -1], 5, 18),
    ("N", [1, 1, -2], 1, 1),
    ("newton", [1, 1, -2], 1, 1),
    ("kN", [1, 1, -2], 1000, 1),
    ("J", [2, 1, -2], 1, 1),
    ("joule", [2, 1, -2], 1, 1),
    ("kJ", [2, 1, -2], 1000, 1),
    ("W", [2, 1, -3], 1, 1),
    ("watt", [2, 1, -3], 1, 1),
    ("kW", [2, 1, -3], 1000, 1),
    ("Pa", [-1, 1, -2], 1, 1),
    ("pascal", [-1, 1, -2], 1, 1),
    ("kPa", [-1, 1, -2], 1000, 1),
    ("hectare", [2, 0, 0], 10_000, 1),
    ("ha", [2, 0, 0], 10_000, 1),
];

/// Counted things: words that may follow a number without changing it.
const COUNTS: &[&str] = &[
    "way",
    "student",
    "point",
    "piece",
    "time",
    "number",
    "book",
    "ball",
    "card",
    "coin",
    "apple",
    "orange",
    "marble",
    "page",
    "word",
    "step",
    "game",
    "team",
    "player",
    "match",
    "ticket",
    "item",
    "question",
    "problem",
    "solution",
    "value",
    "integer",
    "root",
    "triangle",
    "square",
    "circle",
    "side",
    "edge",
    "vertex",
    "vertices",
    "face",
    "cube",
    "tile",
    "car",
    "boy",
    "girl",
    "cookie",
    "candy",
    "candies",
    "egg",
    "flower",
    "tree",
    "seat",
    "member",
    "worker",
    "letter",
    "digit",
    "subset",
    "pair",
    "arrangement",
    "combination",
    "permutation",
    "outcome",
    "possibility",
    "possibilities",
    "case",
    "term",
    "factor",
    "divisor",
    "path",
    "route",
    "gift",
    "toy",
    "stamp",
    "bag",
    "bottle",
    "box",
    "block",
    "row",
    "column",
    "sheet",
    "slice",
    "plant",
    "animal",
    "dog",
    "cat",
    "fish",
    "bird",
    "cow",
    "horse",
    "chicken",
    "rabbit",
    "house",
    "room",
    "floor",
    "bus",
    "train",
    "plane",
    "mark",
    "score",
    "vote",
    "job",
    "car",
];

impl Unit {
    /// The unit with this name.
    pub fn named(name: &str) -> Option<Unit> {
        let known = |name: &str| UNITS.iter().find(|entry| entry.0 == name);
        let singular = |name: &str| name.strip_suffix('s').filter(|stem| stem.len() > 2).map(str::to_string);
        let lower = name.to_ascii_lowercase();
        let entry = known(name)
            .or_else(|| singular(name).and_then(|stem| known(&stem)))
            .or_else(|| if lower.len() > 2 { known(&lower) } else { None })
            .or_else(|| singular(&lower).and_then(|stem| known(&stem)));
        if let Some(&(_, dimension, over, under)) = entry {
            let dimension = if dimension == "volume" { ("length".to_string(), 3) } else { (dimension.to_string(), 1) };
            return Some(Unit {
                dimension: vec![dimension],
                scale: BigRational::new(BigInt::from(over), BigInt::from(under)),
            });
        }
        let derived = |name: &str| DERIVED.iter().find(|entry| entry.0 == name);
        if let Some(&(_, powers, over, under)) =
            derived(name).or_else(|| singular(&lower).and_then(|stem| derived(&stem)))
        {
            let names = ["length", "mass", "time"];
            let mut dimension: Vec<(String, i32)> = names
                .into_iter()
                .zip(powers)
                .filter(|(_, power)| *power != 0)
                .map(|(name, power)| (name.to_string(), power))
                .collect();
            dimension.sort();
            return Some(Unit { dimension, scale: BigRational::new(BigInt::from(over), BigInt::from(under)) });
        }
        let stem = lower
            .strip_suffix("es")
            .filter(|stem| COUNTS.contains(stem))
            .or_else(|| lower.strip_suffix('s'))
            .unwrap_or(&lower);
        let stem = if COUNTS.contains(&lower.as_str()) { lower.as_str() } else { stem };
        COUNTS
            .contains(&stem)
            .then(|| Unit { dimension: vec![(format!("#{stem}"), 1)], scale: BigRational::from_integer(1.into()) })
    }

    /// The currency of a symbol.
    pub fn currency(symbol: char) -> Option<Unit> {
        Unit::named(match symbol {
            '$' => "dollar",
            '€' => "euro",
            '£' => "GBP",
            '¥' => "yuan",
            '₹' => "rupee",
            '¢' => "cent",
            _ => return None,
        })
    }

    /// The product with `other` raised to `exponent`.
    pub fn times(mut self, other: &Unit, exponent: i32) -> Unit {
        for (dimension, power) in &other.dimension {
            match self.dimension.iter_mut().find(|(name, _)| name == dimension) {
                Some((_, own)) => *own += power * exponent,
                None => self.dimension.push((dimension.clone(), power * exponent)),
            }
        }
        self.dimension.retain(|(_, power)| *power != 0);
        self.dimension.sort();
        self.scale *= num_traits::Pow::pow(&other.scale, exponent);
        self
    }

    /// The unit to a power.
    pub fn power(&self, exponent: i32) -> Unit {
        let one = Unit { dimension: Vec::new(), scale: BigRational::from_integer(1.into()) };
        one.times(self, exponent)
    }

    /// True for counts of things and plain "units", which say nothing that could contradict another unit.
    pub fn is_count(&self) -> bool {
        self.dimension.iter().all(|(name, _)| name.starts_with('#'))
    }

    /// A spelling that parses back to the same unit, for printing.
    pub fn spelled(&self) -> String {
        let mut text = String::new();
        for (dimension, power) in &self.dimension {
            text.push_str(&format!("<{dimension}^{power}>"));
        }
        format!("{text}*{}", self.scale)
    }
}
