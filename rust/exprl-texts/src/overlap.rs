//! How much of a hidden reference a text repeats word for word.

use std::collections::{HashMap, HashSet};

use crate::words::words;

/// Words of a run that chance alone rarely repeats.
pub const NGRAM: usize = 8;

type Ngram = [u32; NGRAM];

/// The runs of [`NGRAM`] words of a reference that its problem does not give away.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// The reference's words in lower case: a run with any other word is not in it.
    numbers: HashMap<String, u32>,
    ngrams: HashSet<Ngram>,
}

impl Hidden {
    /// The hidden runs of a reference.
    #[must_use]
    pub fn new(reference: &str, problem: &str) -> Self {
        let reference = reference.to_lowercase();
        let mut numbers = HashMap::new();
        for word in words(&reference) {
            let next = numbers.len() as u32;
            numbers.entry(word.to_owned()).or_insert(next);
        }
        let mut ngrams: HashSet<_> = ngrams(&reference, &numbers).collect();
        for given in self::ngrams(&problem.to_lowercase(), &numbers) {
            ngrams.remove(&given);
        }
        Self { numbers, ngrams }
    }

    /// The share of the hidden runs that a text holds; NaN where there are none.
    ///
    /// ```
    /// let hidden = exprl_texts::Hidden::new("first add four and nine and then halve it", "How?");
    /// assert_eq!(hidden.overlap("First add four and nine and then HALVE"), 0.5);
    /// ```
    #[must_use]
    pub fn overlap(&self, text: &str) -> f64 {
        let copied: HashSet<_> = ngrams(&text.to_lowercase(), &self.numbers)
            .filter(|ngram| self.ngrams.contains(ngram))
            .collect();
        copied.len() as f64 / self.ngrams.len() as f64
    }
}

/// The runs of [`NGRAM`] words that all have a number.
fn ngrams(lower: &str, numbers: &HashMap<String, u32>) -> impl Iterator<Item = Ngram> {
    let (mut last, mut known) = ([0; NGRAM], 0);
    words(lower).filter_map(move |word| {
        let Some(&number) = numbers.get(word) else {
            known = 0;
            return None;
        };
        last.rotate_left(1);
        last[NGRAM - 1] = number;
        known += 1;
        (known >= NGRAM).then_some(last)
    })
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "shares of so few runs are exact")]
mod tests {
    use super::*;

    const REFERENCE: &str = "a b c d e f g h i j";

    #[test]
    fn a_copy_has_all_and_another_text_has_none() {
        let hidden = Hidden::new(REFERENCE, "");
        assert_eq!(hidden.overlap(REFERENCE), 1.0);
        assert_eq!(hidden.overlap("j i h g f e d c b a"), 0.0);
        assert_eq!(hidden.overlap(""), 0.0);
    }

    #[test]
    fn a_run_must_be_whole() {
        let hidden = Hidden::new(REFERENCE, "");
        assert_eq!(hidden.overlap("a b c d e f g h"), 1.0 / 3.0);
        assert_eq!(hidden.overlap("a b c d e f g x h i j"), 0.0);
        assert_eq!(
            hidden.overlap("a b c d e f g h x b c d e f g h i"),
            2.0 / 3.0
        );
    }

    #[test]
    fn a_repeated_copy_counts_once() {
        let text = format!("{REFERENCE} {REFERENCE}");
        assert_eq!(Hidden::new(REFERENCE, "").overlap(&text), 1.0);
    }

    #[test]
    fn what_the_problem_says_is_not_hidden() {
        assert_eq!(
            Hidden::new(REFERENCE, "A b c d e f g h.").overlap("b c d e f g h i"),
            0.5
        );
        assert!(
            Hidden::new(REFERENCE, REFERENCE)
                .overlap(REFERENCE)
                .is_nan()
        );
        assert!(Hidden::new("too short", "").overlap("too short").is_nan());
    }
}
