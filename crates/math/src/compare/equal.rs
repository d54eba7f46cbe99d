//! equal: does the response's tree mean what the reference's tree means?
//!
//! Shapes are matched first (lists, tuples, sets of reals, matrices, relations, words); numbers and functions at the leaves
//! go to `identity`. The first argument is always the reference: conventions may look at it only.

use crate::compare::canon::Canon;
use crate::compare::identity::{self, Identity};
use crate::compare::matrix;
use crate::compare::sets;
use crate::compare::shapes::{
    elements, infinite, is_collection, is_region, is_scalar, letters, plain, set_value, without_declarations,
};
use crate::compare::{names, relations};
use crate::number::budget::{Budget, Exhausted};
use crate::options::Options;
use crate::read::ast::{Bracket, Expr, RelOp};

/// A comparison in progress.
pub struct Comparison<'a> {
    /// Conventions.
    pub options: &'a Options,
    /// Steps that are left.
    pub budget: Budget,
    /// The step that decided, outermost first.
    pub method: &'static str,
    /// A name for every integer, in which both sides are families of values.
    pub(super) parameter: Option<String>,
    depth: u32,
}

/// Equal or not, or no steps left.
pub type Answer = Result<bool, Exhausted>;

/// Shapes may nest this deep.
const DEPTH_LIMIT: u32 = 40;

/// Lists longer than this are not matched without order.
const LIST_LIMIT: usize = 400;

impl<'a> Comparison<'a> {
    /// A new comparison.
    pub fn new(options: &'a Options) -> Comparison<'a> {
        Comparison { options, budget: Budget::new(options.step_budget), method: "structure", parameter: None, depth: 0 }
    }

    /// Compares the reference `a` with the response `b`.
    pub fn same(&mut self, a: &Expr, b: &Expr) -> Answer {
        self.budget.spend(1)?;
        if self.depth >= DEPTH_LIMIT {
            return Err(Exhausted);
        }
        self.depth += 1;
        let result = self.dispatch(a, b);
        self.depth -= 1;
        result
    }

    pub(super) fn how(&mut self, method: &'static str) {
        if self.depth <= 1 {
            self.method = method;
        }
    }

    fn dispatch(&mut self, a: &Expr, b: &Expr) -> Answer {
        if a == b {
            self.how("structure");
            return Ok(true);
        }
        if let Some(result) = self.unwrapped(a, b)? {
            return Ok(result);
        }
        if let (Some(first), Some(second)) = (matrix::fold(a), matrix::fold(b)) {
            self.how("matrix");
            return self.matrices(&first, &second);
        }
        if let Some(result) = self.collections(a, b)? {
            return Ok(result);
        }
        if let Some(result) = self.statements(a, b)? {
            return Ok(result);
        }
        if let Some(result) = self.words(a, b)? {
            return Ok(result);
        }
        self.scalars(a, b)
    }

    pub(super) fn all(&mut self, a: &[Expr], b: &[Expr]) -> Answer {
        if a.len() != b.len() {
            return Ok(false);
        }
        for (x, y) in a.iter().zip(b) {
            if !self.same(x, y)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn matrices(&mut self, a: &[Vec<Expr>], b: &[Vec<Expr>]) -> Answer {
        let flat = |rows: &[Vec<Expr>]| rows.iter().flatten().cloned().collect::<Vec<_>>();
        let shape = |rows: &[Vec<Expr>]| (rows.len(), rows.first().map_or(0, Vec::len));
        if shape(a) != shape(b) {
            return Ok(false);
        }
        self.all(&flat(a), &flat(b))
    }

    /// Lists, tuples, sets of things, sets of reals.
    fn collections(&mut self, a: &Expr, b: &Expr) -> Result<Option<bool>, Exhausted> {
        // vectors: a column or a row equals its tuple
        for (first, second, swapped) in [(a, b, false), (b, a, true)] {
            if let (Some(rows), Expr::Tuple(_, items)) = (matrix::fold(first), second) {
                let vector = rows.len() == 1 || rows.iter().all(|row| row.len() == 1);
                let flat: Vec<Expr> = rows.into_iter().flatten().collect();
                self.how("tuple");
                return Ok(Some(vector && if swapped { self.all(items, &flat)? } else { self.all(&flat, items)? }));
            }
        }
        if let (Expr::Tuple(left, x), Expr::Tuple(right, y)) = (a, b) {
            self.how(if sets::has_infinity(a) { "interval" } else { "tuple" });
            let point = |bracket: &Bracket| *bracket != Bracket::Square;
            let same_kind = point(left) == point(right) || x.len() != 2;
            return Ok(Some(same_kind && self.all(x, y)?));
        }
        if let (Expr::HalfOpen(x, left, right), Expr::HalfOpen(y, other_left, other_right)) = (a, b) {
            self.how("interval");
            return Ok(Some(left == other_left && right == other_right && self.all(&x[..], &y[..])?));
        }
        if (is_region(a) || is_region(b))
            && let Some(result) = self.regions(a, b)?
        {
            return Ok(Some(result));
        }
        if let (Expr::SetOp(op, x), Expr::SetOp(other, y)) = (a, b) {
            self.how("set");
            return Ok(Some(
                op == other
                    && if *op == crate::read::ast::SetOp::Minus { self.all(x, y)? } else { self.unordered(x, y)? },
            ));
        }
        // x = pi/6 + 2 k pi, k in Z: the declaration of a parameter is no element
        let (declared, other) = (without_declarations(a), without_declarations(b));
        if declared.is_some() || other.is_some() {
            return self.families((a, declared), (b, other)).map(Some);
        }
        let square = self.options.square_lists;
        match (elements(a, square), elements(b, square)) {
            (Some(x), Some(y)) => {
                self.how(if matches!((a, b), (Expr::Set(_), _) | (_, Expr::Set(_))) { "set" } else { "list" });
                let ordered = self.options.ordered_lists && matches!((a, b), (Expr::List(_), Expr::List(_)));
                Ok(Some(if ordered { self.all(x, y)? } else { self.unordered(x, y)? }))
            }
            (Some(x), None) => self.list_against(x, a, b, false),
            (None, Some(y)) => self.list_against(y, b, a, true),
            (None, None) => Ok(None),
        }
    }

    /// A list or set against something that is neither.
    fn list_against(
        &mut self,
        items: &[Expr],
        whole: &Expr,
        other: &Expr,
        swapped: bool,
    ) -> Result<Option<bool>, Exhausted> {
        if let (Expr::List(_), Expr::Tuple(bracket, parts)) = (whole, other) {
            // points in a list of one, or a tuple without its brackets
            let solutions = items.windows(2).any(|pair| {
                // x = 1 or x = 2 lists solutions, x = 1, y = 2 is a point
                match (names::assignment(&pair[0]), names::assignment(&pair[1])) {
                    (Some((first, _)), Some((second, _))) => first == second,
                    _ => false,
                }
            });
            let alike = parts.len() == items.len() && *bracket != Bracket::Square && !solutions;
            if self.options.list_as_tuple && alike {
                self.how("tuple");
                let values: Vec<Expr> = items.iter().map(|item| names::value(item).clone()).collect();
                return Ok(Some(if swapped { self.all(parts, &values)? } else { self.all(&values, parts)? }));
            }
            return Ok(Some(false));
        }
        if let Expr::Rel(terms, operators) = other {
            // a name for the whole: x = 1, 2 is read as x = 1 and 2; S = {1, 2}; (x, y) = (1, 2)
            if let Some((_, value)) = names::assignment(other) {
                return Ok(Some(if swapped { self.same(value, whole)? } else { self.same(whole, value)? }));
            }
            if let ([_, set], [RelOp::In]) = (terms.as_slice(), operators.as_slice()) {
                return Ok(Some(if swapped { self.same(set, whole)? } else { self.same(whole, set)? }));
            }
        }
        // a set that holds the empty set is not empty
        if let [only] = items
            && !matches!(only, Expr::Named(_))
        {
            return Ok(Some(if swapped { self.same(other, only)? } else { self.same(only, other)? }));
        }
        // one answer in several forms: 15 39/40 or 639/40
        if matches!(whole, Expr::List(_)) && is_scalar(other) {
            for item in items {
                if !(if swapped { self.same(other, item)? } else { self.same(item, other)? }) {
                    return Ok(Some(false));
                }
            }
            return Ok(Some(!items.is_empty()));
        }
        Ok(Some(false))
    }

    /// Each element of one has an equal in the other, both ways.
    fn unordered(&mut self, a: &[Expr], b: &[Expr]) -> Answer {
        if a.len() > LIST_LIMIT || b.len() > LIST_LIMIT {
            return self.all(a, b);
        }
        if a.len() == b.len() {
            // most answers come in the reference's order
            let mut used = vec![false; b.len()];
            let mut matched = 0;
            for (at, x) in a.iter().enumerate() {
                let order = std::iter::once(at).chain((0..b.len()).filter(|other| *other != at));
                for other in order {
                    if !used[other] && self.element(x, &b[other])? {
                        used[other] = true;
                        matched += 1;
                        break;
                    }
                }
                if matched <= at {
                    break;
                }
            }
            if matched == a.len() {
                return Ok(true);
            }
        }
        for (some, others, swapped) in [(a, b, false), (b, a, true)] {
            for x in some {
                let mut found = false;
                for y in others {
                    if if swapped { self.element(y, x)? } else { self.element(x, y)? } {
                        found = true;
                        break;
                    }
                }
                if !found {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Elements with different names are different, even when their values agree.
    fn element(&mut self, a: &Expr, b: &Expr) -> Answer {
        if let (Some((first, _)), Some((second, _))) = (names::assignment(a), names::assignment(b))
            && !names::same_stem(first, second)
        {
            return Ok(false);
        }
        self.same(a, b)
    }

    /// Sets of reals: intervals, inequalities, memberships.
    fn regions(&mut self, a: &Expr, b: &Expr) -> Result<Option<bool>, Exhausted> {
        if !self.options.interval_as_inequality && (matches!(a, Expr::Rel(..)) != matches!(b, Expr::Rel(..))) {
            return Ok(Some(false));
        }
        let (a, b) = (set_value(a), set_value(b));
        let (first, second) = (sets::real_set(a, &mut self.budget)?, sets::real_set(b, &mut self.budget)?);
        if let (Some(first), Some(second)) = (first, second)
            && let Some(same) = sets::same(&first, &second, &mut self.budget)?
        {
            self.how("interval");
            return Ok(Some(same));
        }
        Ok(None)
    }

    /// Equations, inequalities and other relations.
    fn statements(&mut self, a: &Expr, b: &Expr) -> Result<Option<bool>, Exhausted> {
        match (a, b) {
            (Expr::Rel(..), Expr::Rel(..)) => {
                self.how("relation");
                relations::same(self, a, b).map(Some)
            }
            (Expr::Rel(terms, operators), other) | (other, Expr::Rel(terms, operators)) => {
                let swapped = matches!(b, Expr::Rel(..));
                let mut values = Vec::new();
                let sums = self.options.named_sums && is_scalar(other) && identity::is_constant(other);
                if let Some(value) = names::named_value(if swapped { b } else { a }, swapped, sums) {
                    if self.options.assignment_as_value {
                        values.push(value);
                    }
                } else if let ([_, set], [RelOp::In]) = (terms.as_slice(), operators.as_slice()) {
                    values.push(set);
                } else if operators.iter().all(|operator| *operator == RelOp::Approx) {
                    values.push(&terms[0]);
                    // a reference may give both the exact and the rounded value
                    if !swapped {
                        values.extend(&terms[1..]);
                    }
                } else if !swapped && operators.first() == Some(&RelOp::Eq) && terms.iter().all(identity::is_constant) {
                    values.extend(terms);
                } else if swapped
                    && operators.iter().all(|operator| *operator == RelOp::Eq)
                    && terms.iter().all(identity::is_constant)
                {
                    values.extend(terms.last());
                }
                for value in values {
                    if if swapped { self.same(other, value)? } else { self.same(value, other)? } {
                        return Ok(Some(true));
                    }
                }
                Ok(Some(false))
            }
            (Expr::Logic(all, x), Expr::Logic(other, y)) => Ok(Some(all == other && self.unordered(x, y)?)),
            (Expr::SetBuilder(x), Expr::SetBuilder(y)) => Ok(Some(self.all(&x[..], &y[..])?)),
            (Expr::Cases(x), Expr::Cases(y)) => {
                let pairs = |cases: &[(Expr, Expr)]| {
                    cases
                        .iter()
                        .map(|(value, test)| Expr::Tuple(Bracket::Round, vec![value.clone(), test.clone()]))
                        .collect::<Vec<_>>()
                };
                Ok(Some(self.unordered(&pairs(x), &pairs(y))?))
            }
            _ => Ok(None),
        }
    }

    fn words(&mut self, a: &Expr, b: &Expr) -> Result<Option<bool>, Exhausted> {
        match (a, b) {
            (Expr::Text(x), Expr::Text(y)) => {
                self.how("text");
                Ok(Some(plain(x) == plain(y)))
            }
            (Expr::Text(x), Expr::Sym(y)) | (Expr::Sym(y), Expr::Text(x)) => {
                self.how("text");
                Ok(Some(plain(x) == y.to_lowercase()))
            }
            (Expr::Text(x), y) | (y, Expr::Text(x)) => {
                self.how("text");
                // letters that were read as a product
                Ok(Some(letters(y).is_some_and(|letters| letters == plain(x))))
            }
            (Expr::Prose(x), Expr::Prose(y)) => {
                self.how("prose");
                self.all(x, y).map(Some)
            }
            (Expr::Prose(_), _) | (_, Expr::Prose(_)) => {
                self.how("prose");
                Ok(Some(false))
            }
            (Expr::Named(x), Expr::Named(y)) => Ok(Some(x == y)),
            (Expr::Named(_), _) | (_, Expr::Named(_)) => Ok(Some(false)),
            _ => Ok(None),
        }
    }

    /// Numbers and functions.
    fn scalars(&mut self, a: &Expr, b: &Expr) -> Answer {
        if let (Some(x), Some(y)) = (infinite(a), infinite(b)) {
            return Ok(x == y);
        }
        if is_collection(a) || is_collection(b) {
            return Ok(false);
        }
        match identity::compare(a, b, &mut self.budget)? {
            Identity::Same(method) => {
                self.how(method);
                Ok(true)
            }
            Identity::Different(method) => {
                self.how(method);
                Ok(self.same_family(a, b)? || self.rounded(a, b)? || self.rounds_gold(a, b)?)
            }
            Identity::Undefined => {
                self.how("undefined");
                Ok(false)
            }
            // numbers too large to compute: as little decided as with no steps left
            Identity::Unknown => Err(Exhausted),
        }
    }

    /// A canonical form builder on this comparison's budget.
    pub fn canon(&mut self) -> Canon<'_> {
        Canon { budget: &mut self.budget, uncertain: false, others: Default::default() }
    }
}
