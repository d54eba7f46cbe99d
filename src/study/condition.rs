//! Conditions on rows: `source=guided`, `attempts>=3`, `prompt~dozen`.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use mindgap_base::error::{Error, Result};

/// A column, a comparison, a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub column: String,
    comparison: Comparison,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
}

/// Longer signs first: `<=` is not `<` and a value that starts with `=`.
const SIGNS: [(&str, Comparison); 7] = [
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("~", Comparison::Contains),
];

/// A column as far as values can be compared with it.
enum Cells {
    Texts(StringArray),
    Numbers(Float64Array),
    Flags(BooleanArray),
    /// Lists and records: only whether a cell is empty can be asked.
    Nested(ArrayRef),
}

impl Condition {
    pub fn parse(text: &str) -> Result<Condition, String> {
        let found = text.char_indices().find_map(|(at, _)| {
            let sign = SIGNS.iter().find(|(sign, _)| text[at..].starts_with(sign))?;
            Some((at, sign))
        });
        let (at, (sign, comparison)) = found.ok_or("expected COLUMN=VALUE; signs are = != < <= > >= ~")?;
        let (column, value) = (text[..at].trim(), text[at + sign.len()..].trim());
        if column.is_empty() {
            return Err("there is no column before the sign".to_string());
        }
        Ok(Condition { column: column.to_string(), comparison: *comparison, value: value.to_string() })
    }

    /// Which of the cells named in `rows` fit. `!=` is the opposite of `=`; otherwise an empty cell fits nothing but `=null`.
    /// Error where a cell that is not empty cannot be compared with the value.
    pub fn fitting(&self, column: &ArrayRef, rows: &[usize]) -> Result<Vec<usize>> {
        let cells = Cells::of(column)?;
        let mut fitting = Vec::new();
        for &row in rows {
            if self.holds(&cells, row)? {
                fitting.push(row);
            }
        }
        Ok(fitting)
    }

    fn holds(&self, cells: &Cells, row: usize) -> Result<bool> {
        use std::cmp::Ordering::{Greater, Less};
        match self.comparison {
            Comparison::Equal => return self.equals(cells, row),
            Comparison::NotEqual => return Ok(!self.equals(cells, row)?),
            _ if cells.is_empty(row) => return Ok(false),
            _ => {}
        }
        let order = match cells {
            Cells::Texts(texts) if self.comparison == Comparison::Contains => {
                return Ok(texts.value(row).contains(&self.value));
            }
            _ if self.comparison == Comparison::Contains => return Err(self.misfit("`~` looks into text")),
            Cells::Texts(texts) => texts.value(row).cmp(self.value.as_str()),
            Cells::Numbers(numbers) => numbers.value(row).total_cmp(&self.number()?),
            _ => return Err(self.misfit("its values have no order")),
        };
        Ok(match self.comparison {
            Comparison::Less => order == Less,
            Comparison::AtMost => order != Greater,
            Comparison::Greater => order == Greater,
            _ => order != Less,
        })
    }

    fn equals(&self, cells: &Cells, row: usize) -> Result<bool> {
        if cells.is_empty(row) || self.value == "null" {
            return Ok(cells.is_empty(row) && self.value == "null");
        }
        Ok(match cells {
            Cells::Texts(texts) => texts.value(row) == self.value,
            Cells::Numbers(numbers) => numbers.value(row) == self.number()?,
            Cells::Flags(flags) => match self.value.as_str() {
                "true" => flags.value(row),
                "false" => !flags.value(row),
                _ => return Err(self.misfit("it holds true and false")),
            },
            Cells::Nested(_) => return Err(self.misfit("it holds lists")),
        })
    }

    fn number(&self) -> Result<f64> {
        self.value.parse().map_err(|_| self.misfit("it holds numbers"))
    }

    fn misfit(&self, why: &str) -> Error {
        Error::usage(format!("column `{}` cannot be compared with `{}`: {why}", self.column, self.value))
    }
}

impl Cells {
    fn of(column: &ArrayRef) -> Result<Cells> {
        let converted =
            |to: &DataType| cast(column, to).map_err(|e| Error::input("a column cannot be compared").source(e));
        Ok(match column.data_type() {
            DataType::Boolean => Cells::Flags(column.as_boolean().clone()),
            kind if kind.is_numeric() && !is_decimal(kind) => {
                Cells::Numbers(converted(&DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            kind if kind.is_nested() || kind.is_binary() => Cells::Nested(column.clone()),
            // Times and decimals too are compared as they are printed.
            _ => Cells::Texts(converted(&DataType::Utf8)?.as_string::<i32>().clone()),
        })
    }

    /// JSON knows no other numbers than finite ones: a cell with another is printed as an empty one.
    fn is_empty(&self, row: usize) -> bool {
        match self {
            Cells::Texts(texts) => texts.is_null(row),
            Cells::Numbers(numbers) => numbers.is_null(row) || !numbers.value(row).is_finite(),
            Cells::Flags(flags) => flags.is_null(row),
            Cells::Nested(column) => column.is_null(row),
        }
    }
}

fn is_decimal(kind: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    matches!(kind, Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ListArray, UInt32Array};
    use arrow::datatypes::UInt32Type;
    use std::sync::Arc;

    fn texts(cells: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(cells.to_vec()))
    }

    fn counts(cells: &[Option<u32>]) -> ArrayRef {
        Arc::new(UInt32Array::from(cells.to_vec()))
    }

    fn flags(cells: &[bool]) -> ArrayRef {
        Arc::new(BooleanArray::from(cells.to_vec()))
    }

    #[track_caller]
    fn fitting(condition: &str, column: &ArrayRef) -> Vec<usize> {
        let rows: Vec<usize> = (0..column.len()).collect();
        Condition::parse(condition).unwrap().fitting(column, &rows).unwrap()
    }

    #[test]
    fn conditions_compare_as_the_column_is() {
        let sources = texts(&[Some("guided"), Some("self"), None]);
        assert_eq!(fitting("source=guided", &sources), [0]);
        assert_eq!(fitting("source != guided", &sources), [1, 2]);
        assert_eq!(fitting("source>guided", &sources), [1]);
        let attempts = counts(&[Some(3), Some(9), Some(10)]);
        assert_eq!(fitting("attempts>=3", &attempts), [0, 1, 2]);
        assert_eq!(fitting("attempts>3", &attempts), [1, 2]);
        assert_eq!(fitting("attempts<=3.5", &attempts), [0]);
        assert_eq!(fitting("attempts<10", &attempts), [0, 1], "numbers compare as numbers");
        let prompts = texts(&[Some("if a=b then"), Some("x>=2")]);
        assert_eq!(fitting("prompt~a=b", &prompts), [0]);
        assert_eq!(fitting("prompt~", &prompts), [0, 1]);
        assert_eq!(fitting("answer=x>=2", &prompts), [1], "the first sign counts");
        assert_eq!(fitting("eligible=true", &flags(&[true, false])), [0]);
        assert_eq!(fitting("eligible!=true", &flags(&[true, false])), [1]);
    }

    #[test]
    fn empty_cells_fit_null_alone() {
        let extracted = texts(&[None, Some("7")]);
        assert_eq!(fitting("extracted=null", &extracted), [0]);
        assert_eq!(fitting("extracted!=null", &extracted), [1]);
        assert_eq!(fitting("extracted!=7", &extracted), [0]);
        assert_eq!(fitting("extracted<8", &extracted), [1]);
        assert_eq!(fitting("extracted~7", &extracted), [1]);
        let losses: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 0.5]));
        assert_eq!(fitting("loss=null", &losses), [0], "as it is printed");
        assert_eq!(fitting("loss<1", &losses), [1]);
    }

    #[test]
    fn rows_that_are_out_already_are_not_compared() {
        let attempts = counts(&[Some(1), Some(2)]);
        let condition = Condition::parse("attempts=many").unwrap();
        assert_eq!(condition.fitting(&attempts, &[]).unwrap(), [0; 0]);
        assert_eq!(Condition::parse("attempts<9").unwrap().fitting(&attempts, &[1]).unwrap(), [1]);
    }

    #[test]
    fn senseless_conditions_say_why() {
        let error = |condition: &str, column: &ArrayRef| {
            Condition::parse(condition).unwrap().fitting(column, &[0]).unwrap_err().what().to_string()
        };
        let attempts = counts(&[Some(3)]);
        let text = "column `attempts` cannot be compared with `many`: it holds numbers";
        assert_eq!(error("attempts=many", &attempts), text);
        let ids: ArrayRef = Arc::new(ListArray::from_iter_primitive::<UInt32Type, _, _>([Some([Some(3)])]));
        assert!(error("token_ids=3", &ids).contains("it holds lists"));
        assert!(error("token_ids<3", &ids).contains("its values have no order"));
        assert!(error("attempts~3", &attempts).contains("`~` looks into text"));
        assert!(Condition::parse("source").is_err() && Condition::parse("=3").is_err());
    }
}
