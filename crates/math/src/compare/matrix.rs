//! matrix: sums, multiples and products of matrices, entry by entry.

use crate::read::ast::Expr;

/// Matrices with more entries than this stay unevaluated.
const ENTRY_LIMIT: usize = 400;

/// The entries of an expression that is a matrix.
pub fn fold(expr: &Expr) -> Option<Vec<Vec<Expr>>> {
    match expr {
        Expr::Matrix(rows) => {
            let width = rows.first()?.len();
            rows.iter().all(|row| row.len() == width).then(|| rows.clone())
        }
        Expr::Neg(inner) => {
            let rows = fold(inner)?;
            Some(map(rows, |entry| Expr::Neg(Box::new(entry))))
        }
        Expr::Add(terms) => {
            let mut terms = terms.iter();
            let mut sum = fold(terms.next()?)?;
            for term in terms {
                let next = fold(term)?;
                if next.len() != sum.len() || next[0].len() != sum[0].len() {
                    return None;
                }
                let pairs = sum.into_iter().zip(next);
                sum = pairs
                    .map(|(left, right)| left.into_iter().zip(right).map(|(x, y)| Expr::Add(vec![x, y])).collect())
                    .collect();
            }
            Some(sum)
        }
        Expr::Div(over, under) => {
            let rows = fold(over)?;
            Some(map(rows, |entry| Expr::Div(Box::new(entry), under.clone())))
        }
        Expr::Mul(factors) => {
            let mut scale = Vec::new();
            let mut product: Option<Vec<Vec<Expr>>> = None;
            for factor in factors {
                match (fold(factor), product.take()) {
                    (Some(rows), None) => product = Some(rows),
                    (Some(rows), Some(left)) => product = Some(multiply(&left, &rows)?),
                    (None, before) => {
                        scale.push(factor.clone());
                        product = before;
                    }
                }
            }
            let rows = product?;
            Some(map(rows, |entry| {
                let mut factors = scale.clone();
                factors.push(entry);
                if factors.len() == 1 { factors.pop().expect("one factor") } else { Expr::Mul(factors) }
            }))
        }
        _ => None,
    }
}

fn map(rows: Vec<Vec<Expr>>, mut change: impl FnMut(Expr) -> Expr) -> Vec<Vec<Expr>> {
    rows.into_iter().map(|row| row.into_iter().map(&mut change).collect()).collect()
}

fn multiply(left: &[Vec<Expr>], right: &[Vec<Expr>]) -> Option<Vec<Vec<Expr>>> {
    if left[0].len() != right.len() || left.len() * right[0].len() * right.len() > ENTRY_LIMIT {
        return None;
    }
    let entry = |row: &[Expr], column: usize| {
        let terms = row
            .iter()
            .zip(right)
            .map(|(x, other)| Expr::Mul(vec![x.clone(), other[column].clone()]))
            .collect::<Vec<_>>();
        Expr::Add(terms)
    };
    Some(left.iter().map(|row| (0..right[0].len()).map(|column| entry(row, column)).collect()).collect())
}
