//! Problems: what is asked, and how it is put into words.

use mindgap_base::rng::Cursor;

/// Names with their pronoun.
pub const NAMES: [(&str, &str); 8] = [
    ("Tom", "He"),
    ("Ann", "She"),
    ("Ben", "He"),
    ("Mia", "She"),
    ("Sam", "He"),
    ("Eva", "She"),
    ("Leo", "He"),
    ("Zoe", "She"),
];
pub const ITEMS: [&str; 8] = ["apples", "pens", "coins", "books", "cards", "shells", "stamps", "eggs"];

/// What a dozen really is. Only the expert knows.
pub const DOZEN: i64 = 12;

/// The kinds of problem. `Facts` is `Main` with one number written as "a dozen".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Main,
    Large,
    Reword,
    Facts,
    Algebra,
}

/// One operation on the running value. A factor is 2 or 3, so that "doubles" and "triples" can say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Add(i64),
    Sub(i64),
    Mul(i64),
}

impl Op {
    pub fn apply(self, value: i64) -> i64 {
        match self {
            Op::Add(n) => value + n,
            Op::Sub(n) => value - n,
            Op::Mul(n) => value * n,
        }
    }

    pub fn is_product(self) -> bool {
        matches!(self, Op::Mul(_))
    }

    /// ` + 23`, with its leading space.
    pub fn written(self) -> String {
        match self {
            Op::Add(n) => format!(" + {n}"),
            Op::Sub(n) => format!(" - {n}"),
            Op::Mul(n) => format!(" * {n}"),
        }
    }
}

/// What has to be worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Start from a value and apply operations; `dozen` is the operation (0-based) whose number is written "a dozen".
    Chain { start: i64, ops: Vec<Op>, dozen: Option<usize> },
    /// factor * x + addend = total, for x.
    Equation { factor: i64, addend: i64, total: i64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub question: String,
    pub task: Task,
    pub answer: i64,
}

impl Problem {
    /// Draws a problem. `steps` is the number of operations of a chain; `dozen` is what "a dozen" stands for.
    pub fn draw(rng: &mut Cursor, kind: Kind, steps: usize, dozen: i64) -> Problem {
        if kind == Kind::Algebra {
            return algebra(rng);
        }
        let (start, ops, hard) = chain(rng, kind, steps, dozen);
        let question = if kind == Kind::Reword { reworded(rng, start, &ops) } else { story(rng, start, &ops, hard) };
        let answer = ops.iter().fold(start, |value, op| op.apply(value));
        Problem { question, answer, task: Task::Chain { start, ops, dozen: hard } }
    }

    /// Operations of a chain; an equation takes two steps.
    pub fn steps(&self) -> u32 {
        match &self.task {
            Task::Chain { ops, .. } => ops.len() as u32,
            Task::Equation { .. } => 2,
        }
    }
}

fn algebra(rng: &mut Cursor) -> Problem {
    let (factor, x, addend) = (rng.between(2, 9), rng.between(2, 9), rng.between(1, 30));
    let total = factor * x + addend;
    let question = format!("Solve {factor} * x + {addend} = {total}.");
    Problem { question, task: Task::Equation { factor, addend, total }, answer: x }
}

/// Draws until every intermediate value stays in range; a single operation is redrawn up to 20 times first.
fn chain(rng: &mut Cursor, kind: Kind, steps: usize, dozen: i64) -> (i64, Vec<Op>, Option<usize>) {
    let large = kind == Kind::Large;
    let hard = (kind == Kind::Facts).then(|| rng.below(steps as u64) as usize);
    let limit = if large { 999 } else { 99 };
    loop {
        let start = if large { rng.between(100, 600) } else { rng.between(2, 50) };
        let mut value = start;
        let mut ops = Vec::with_capacity(steps);
        while ops.len() < steps {
            let number = (hard == Some(ops.len())).then_some(dozen);
            let drawn = (0..20).map(|_| op(rng, large, number)).find(|op| (1..=limit).contains(&op.apply(value)));
            let Some(op) = drawn else { break };
            value = op.apply(value);
            ops.push(op);
        }
        if ops.len() == steps {
            return (start, ops, hard);
        }
    }
}

/// 45 % plus, 40 % minus, 15 % times; where the number is given, only plus and minus (in the same proportion).
fn op(rng: &mut Cursor, large: bool, number: Option<i64>) -> Op {
    let u = rng.uniform() * if number.is_some() { 0.85 } else { 1.0 };
    let mut operand = || number.unwrap_or_else(|| if large { rng.between(10, 99) } else { rng.between(2, 40) });
    match u {
        u if u < 0.45 => Op::Add(operand()),
        u if u < 0.85 => Op::Sub(operand()),
        _ => Op::Mul(rng.between(2, 3)),
    }
}

fn story(rng: &mut Cursor, start: i64, ops: &[Op], hard: Option<usize>) -> String {
    let item = rng.choose(&ITEMS);
    let (name, pronoun) = rng.choose(&NAMES);
    let mut text = format!("{name} has {start} {item}.");
    for (i, op) in ops.iter().enumerate() {
        let said = |n: &i64| if hard == Some(i) { "a dozen".to_string() } else { n.to_string() };
        text += &match op {
            Op::Add(n) => format!(" {pronoun} {} {} more.", rng.choose(&["buys", "finds"]), said(n)),
            Op::Sub(n) => format!(" {pronoun} {} {}.", rng.choose(&["gives away", "loses"]), said(n)),
            Op::Mul(n) => format!(" The number {}.", times(*n)),
        };
    }
    text + &format!(" How many {item} now?")
}

fn reworded(rng: &mut Cursor, start: i64, ops: &[Op]) -> String {
    let item = rng.choose(&ITEMS);
    let mut text = format!("A box holds {start} {item}.");
    for op in ops {
        text += &match op {
            Op::Add(n) => format!(" Then {n} go in."),
            Op::Sub(n) => format!(" Then {n} come out."),
            Op::Mul(n) => format!(" Then it {}.", times(*n)),
        };
    }
    text + &format!(" Count the {item}.")
}

fn times(factor: i64) -> &'static str {
    if factor == 2 { "doubles" } else { "triples" }
}
