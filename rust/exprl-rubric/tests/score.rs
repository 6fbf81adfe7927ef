//! The score maps, by hand from docs/concepts/method.md.

use exprl_rubric::ScoreMap::{Binary, Extremes, ExtremesSoft, Linear};

#[test]
fn every_map_gives_the_scores_of_its_definition() {
    let table = [
        (
            Linear,
            [Some(0.0), Some(0.25), Some(0.5), Some(0.75), Some(1.0)],
        ),
        (
            Binary,
            [Some(0.0), Some(0.0), Some(0.0), Some(1.0), Some(1.0)],
        ),
        (Extremes, [Some(0.0), None, None, None, Some(1.0)]),
        (ExtremesSoft, [Some(0.0), None, None, Some(0.8), Some(1.0)]),
    ];
    for (map, scores) in table {
        for (grade, score) in (1..=5).zip(scores) {
            assert_eq!(map.score(grade), score, "{map:?} {grade}");
        }
        for grade in [0, 6, 255] {
            assert_eq!(map.score(grade), None, "{map:?} {grade}");
        }
    }
}

#[test]
fn the_expected_score_is_the_renormalised_mean() {
    let close = |score: Option<f64>, expected: f64| {
        assert!((score.unwrap() - expected).abs() < 1e-12, "{score:?}");
    };
    close(Linear.expected(&[0.1, 0.2, 0.3, 0.2, 0.2]), 0.55);
    close(Linear.expected(&[0.0, 0.0, 0.0, 0.2, 0.2]), 0.875);
    close(Binary.expected(&[0.0, 0.0, 0.5, 0.3, 0.2]), 0.5);
    close(Extremes.expected(&[0.2, 0.1, 0.1, 0.0, 0.6]), 0.75);
    close(ExtremesSoft.expected(&[0.1, 0.0, 0.0, 0.5, 0.4]), 0.8);
}

#[test]
fn an_expected_score_that_rests_on_nothing_is_missing() {
    assert_eq!(Linear.expected(&[0.0; 5]), None);
    assert_eq!(Linear.expected(&[f64::NAN, 0.0, 0.0, 0.0, 1.0]), None);
    assert_eq!(Linear.expected(&[f64::INFINITY, 0.0, 0.0, 0.0, 1.0]), None);
    assert_eq!(Linear.expected(&[-0.1, 0.0, 0.0, 0.0, 1.1]), None);
    assert_eq!(
        Extremes.expected(&[0.0, 0.0, 0.98, 0.0, 0.02]),
        None,
        "the judge says 3, which has no score"
    );
}
