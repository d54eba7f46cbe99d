//! How tokens differ in a trainer that is given texts and renders them with the policy's own chat template.

/// What becomes of the rows of an export there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// Rows with other tokens in the prompt or in the answer.
    pub retokenized: usize,
    /// Rows that are equal up to the end-of-sequence token, with more behind it.
    pub lengthened: usize,
    /// What stands there, in the first of them.
    pub behind: String,
    /// The chat template asks for the date, which is a fixed one here and the day's elsewhere.
    pub dated: bool,
}

impl Drift {
    /// Sentences for the card and for people.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.retokenized > 0 {
            notes.push(format!(
                "{} rows come out as other tokens than these, once the policy's chat template is applied to their text; \
                 `--format pretokenized` keeps the tokens of targets",
                self.retokenized
            ));
        }
        if self.lengthened > 0 {
            notes.push(format!(
                "in {} rows the chat template writes `{}` behind the end-of-sequence token, and most trainers train on it",
                self.lengthened,
                self.behind.escape_debug()
            ));
        }
        if self.dated {
            notes.push(
                "the chat template asks for the date: a trainer writes the day's, here it is 26 July 2024 always, and rows \
                 rendered on another day have other tokens"
                    .to_string(),
            );
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_differs_and_nothing_else() {
        assert_eq!(Drift::default().notes(), [""; 0]);
        let drift = Drift { lengthened: 3, behind: "\n".to_string(), ..Drift::default() };
        let [note] = &drift.notes()[..] else { panic!("one note") };
        assert!(note.starts_with("in 3 rows the chat template writes `\\n` behind"), "{note}");
        let drift = Drift { retokenized: 2, dated: true, ..drift };
        assert_eq!(drift.notes().len(), 3);
        assert!(drift.notes()[0].starts_with("2 rows ") && drift.notes()[2].contains("26 July 2024"));
    }
}
