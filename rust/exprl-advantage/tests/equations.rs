//! The equations, as laws over any batch and as cases computed by hand.

use std::cmp::Ordering;

use exprl_advantage::{BOUNDS, Batch, Error, Kind, Published, Settings, SingleSegment, advantages};
use proptest::prelude::*;

const OUTCOME_KINDS: [Kind; 4] = [Kind::Grpo, Kind::DrGrpo, Kind::Rloo, Kind::Reinforce];
const KINDS: [Kind; 11] = [
    Kind::Grpo,
    Kind::DrGrpo,
    Kind::Rloo,
    Kind::Reinforce,
    Kind::Delta,
    Kind::End,
    Kind::Group,
    Kind::Batch,
    Kind::Raw,
    Kind::FirstError,
    Kind::StepOutcome,
];

/// Groups of rollouts of scores.
type Groups = Vec<Vec<Vec<f64>>>;

fn settings(kind: Kind) -> Settings {
    Settings {
        kind,
        single_segment: SingleSegment::Zero,
        published: None,
        std_floor: 0.05,
        outcome_weight: 1.0,
        bounds: BOUNDS,
    }
}

fn run(groups: &[Vec<Vec<f64>>], settings: Settings) -> Result<Groups, Error> {
    run_cut(groups, &[], settings)
}

/// `overlong` says which rollouts were cut by length.
fn run_cut(
    groups: &[Vec<Vec<f64>>],
    overlong: &[bool],
    settings: Settings,
) -> Result<Groups, Error> {
    let rollouts: Vec<&Vec<f64>> = groups.iter().flatten().collect();
    let scores: Vec<f64> = rollouts.iter().copied().flatten().copied().collect();
    let seg_off = offsets(rollouts.iter().map(|rollout| rollout.len()));
    let group_off = offsets(groups.iter().map(Vec::len));
    let batch = Batch {
        scores: &scores,
        seg_off: &seg_off,
        group_off: &group_off,
        overlong,
    };
    let mut values = advantages(batch, settings)?.into_iter();
    let take = |rollout: &Vec<f64>| values.by_ref().take(rollout.len()).collect();
    let mut flat: std::vec::IntoIter<Vec<f64>> = rollouts
        .into_iter()
        .map(take)
        .collect::<Vec<_>>()
        .into_iter();
    Ok(groups
        .iter()
        .map(|group| flat.by_ref().take(group.len()).collect())
        .collect())
}

fn offsets(sizes: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut offsets = vec![0];
    offsets.extend(sizes.scan(0, |end, size| {
        *end += size;
        Some(*end)
    }));
    offsets
}

fn assert_close(found: &[Vec<Vec<f64>>], expected: &[Vec<Vec<f64>>]) {
    let (found, expected): (Vec<f64>, Vec<f64>) = (
        found.iter().flatten().flatten().copied().collect(),
        expected.iter().flatten().flatten().copied().collect(),
    );
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        let both_out = found.is_nan() && expected.is_nan();
        assert!(
            both_out || (found - expected).abs() < 1e-9,
            "{found} is not {expected}"
        );
    }
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![4 => (0_u8..=4).prop_map(|step| f64::from(step) / 4.0), 1 => 0.0..=1.0]
}

fn maybe_missing() -> impl Strategy<Value = f64> {
    prop_oneof![8 => score(), 1 => Just(f64::NAN)]
}

fn process_groups() -> impl Strategy<Value = Groups> {
    let rollout = prop::collection::vec(maybe_missing(), 0..6);
    prop::collection::vec(prop::collection::vec(rollout, 0..6), 0..4)
}

fn outcome_groups() -> impl Strategy<Value = Groups> {
    let rollout = maybe_missing().prop_map(|score| vec![score]);
    prop::collection::vec(prop::collection::vec(rollout, 0..8), 0..4)
}

fn groups_for(kind: Kind) -> BoxedStrategy<Groups> {
    if OUTCOME_KINDS.contains(&kind) {
        outcome_groups().boxed()
    } else {
        process_groups().boxed()
    }
}

fn kind_and_groups() -> impl Strategy<Value = (Kind, Groups)> {
    prop::sample::select(&KINDS).prop_flat_map(|kind| (Just(kind), groups_for(kind)))
}

/// The standard deviation, with n - 1; 0 of fewer than two.
fn spread(scores: &[f64]) -> f64 {
    let count = scores.len() as f64;
    if scores.len() < 2 {
        return 0.0;
    }
    let mean = scores.iter().sum::<f64>() / count;
    (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
}

fn is_out(rollout: &[f64]) -> bool {
    rollout.is_empty() || rollout.iter().any(|score| score.is_nan())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn delta_sums_to_zero_over_a_rollout(groups in process_groups()) {
        for rollout in run(&groups, settings(Kind::Delta)).unwrap().iter().flatten() {
            prop_assert!(is_out(rollout) || rollout.iter().sum::<f64>().abs() < 1e-12);
        }
    }

    #[test]
    fn grpo_does_not_see_a_shift_of_all_scores(groups in outcome_groups(), share in 0.0..1.0_f64) {
        // Shrunk to [0, 1/2] first, so that shifted scores are scores.
        let map = |shift: f64| -> Groups {
            let each = |score: &f64| score / 2.0 + shift;
            let rollout = |rollout: &Vec<f64>| rollout.iter().map(each).collect();
            groups.iter().map(|group| group.iter().map(rollout).collect()).collect()
        };
        let before = run(&map(0.0), settings(Kind::Grpo)).unwrap();
        assert_close(&run(&map(share / 2.0), settings(Kind::Grpo)).unwrap(), &before);
    }

    #[test]
    fn above_the_floor_grpo_is_what_it_is_without_one(groups in outcome_groups()) {
        let bare = Settings { std_floor: 0.0, ..settings(Kind::Grpo) };
        let (found, free) = (run(&groups, settings(Kind::Grpo)).unwrap(), run(&groups, bare).unwrap());
        for (group, (found, free)) in groups.iter().zip(found.iter().zip(&free)) {
            let scores: Vec<f64> = group.iter().flatten().copied().filter(|s| !s.is_nan()).collect();
            if spread(&scores) > 0.0501 {
                // Equal to the last bit, missing ones included.
                prop_assert_eq!(format!("{found:?}"), format!("{free:?}"));
            }
        }
    }

    #[test]
    fn what_differs_by_noise_only_stays_near_zero(
        score in 0.0..=0.99_f64, noise in prop::collection::vec(0.0..=0.01_f64, 2..17)
    ) {
        let group = vec![noise.iter().map(|noise| vec![score + noise]).collect::<Vec<_>>()];
        let found = run(&group, settings(Kind::Grpo)).unwrap();
        prop_assert!(found.iter().flatten().flatten().all(|value| value.abs() <= 0.2));
        // Without the floor the same noise is a preference of full size.
        let bare = Settings { std_floor: 0.0, ..settings(Kind::Grpo) };
        let largest = run(&group, bare).unwrap().iter().flatten().flatten()
            .fold(0.0_f64, |most, value| most.max(value.abs()));
        let scores: Vec<f64> = group.iter().flatten().flatten().copied().collect();
        prop_assert!(largest > 0.5 || spread(&scores) < 1e-4);
    }

    #[test]
    fn first_error_credits_up_to_the_first_error_and_nothing_after_it(groups in process_groups()) {
        let found = run(&groups, settings(Kind::FirstError)).unwrap();
        for (scores, found) in groups.iter().flatten().zip(found.iter().flatten()) {
            if is_out(scores) {
                continue;
            }
            let error = scores.iter().position(|&score| score < 0.75).unwrap_or(scores.len());
            let credit = |step: usize| match step.cmp(&error) {
                Ordering::Less => 1.0,
                Ordering::Equal => -1.0,
                Ordering::Greater => 0.0,
            };
            let expected: Vec<f64> = (0..scores.len()).map(credit).collect();
            prop_assert_eq!(found, &expected);
        }
    }

    #[test]
    fn the_steps_of_step_outcome_sum_to_zero_and_so_do_its_outcomes(groups in process_groups()) {
        let part = |outcome_weight: f64| {
            run(&groups, Settings { outcome_weight, ..settings(Kind::StepOutcome) }).unwrap()
        };
        let (steps, both) = (part(0.0), part(2.0));
        for (steps, both) in steps.iter().zip(&both) {
            let valid = steps.iter().zip(both).filter(|(steps, _)| !is_out(steps));
            let sum: f64 = valid.clone().flat_map(|(steps, _)| steps).sum();
            prop_assert!(sum.abs() < 1e-6, "steps: {sum}");
            let sum: f64 = valid.map(|(steps, both)| both[0] - steps[0]).sum();
            prop_assert!(sum.abs() < 1e-6, "outcomes: {sum}");
        }
    }

    #[test]
    fn permuting_a_group_permutes_the_result((kind, groups) in kind_and_groups(), by in 0_usize..8) {
        let turn = |groups: &Groups| -> Groups {
            let mut groups = groups.clone();
            for group in groups.iter_mut().filter(|group| !group.is_empty()) {
                let by = by % group.len();
                group.rotate_left(by);
                group[by..].reverse();
            }
            groups
        };
        let found = run(&turn(&groups), settings(kind)).unwrap();
        assert_close(&found, &turn(&run(&groups, settings(kind)).unwrap()));
    }

    #[test]
    fn a_rollout_that_is_out_changes_nothing_for_the_others((kind, groups) in kind_and_groups()) {
        let keep = |groups: &Groups| -> Groups {
            groups
                .iter()
                .map(|group| group.iter().filter(|rollout| !is_out(rollout)).cloned().collect())
                .collect()
        };
        let found = run(&groups, settings(kind)).unwrap();
        for (rollout, found) in groups.iter().flatten().zip(found.iter().flatten()) {
            prop_assert!(found.iter().all(|value| value.is_nan() == is_out(rollout)));
        }
        assert_close(&keep(&found), &run(&keep(&groups), settings(kind)).unwrap());
    }

    #[test]
    fn equal_scores_give_exactly_zero_to_every_outcome_kind(
        score in 0.0..=1.0_f64, rollouts in 1_usize..9
    ) {
        for kind in OUTCOME_KINDS {
            let found = run(&[vec![vec![score]; rollouts]], settings(kind)).unwrap();
            prop_assert!(found.iter().flatten().flatten().all(|&value| value == 0.0));
        }
    }
}

#[test]
fn each_kind_follows_its_equation() {
    let outcome = vec![vec![vec![1.0], vec![0.5], vec![0.0]], vec![vec![0.25]]];
    let process = vec![vec![vec![0.5, 1.0, 0.75], vec![0.25]]];
    // mean 1/2, std sqrt((1/4 + 0 + 1/4) / 2) = 1/2
    let unit = 0.5 / (0.5 + 1e-6);
    // All steps: mean (1/2 + 1 + 3/4 + 1/4) / 4 = 5/8, squares 1/64 + 9/64 + 1/64 + 9/64 = 5/16.
    let step = 1.0 / ((5.0_f64 / 16.0 / 3.0).sqrt() + 1e-6);
    // Last scores 3/4 and 1/4: mean 1/2, squares 1/16 + 1/16 = 1/8.
    let final_part = 0.25 / ((1.0_f64 / 8.0).sqrt() + 1e-6);
    let cases: [(Kind, &Groups, Groups); 11] = [
        (
            Kind::Grpo,
            &outcome,
            vec![vec![vec![unit], vec![0.0], vec![-unit]], vec![vec![0.0]]],
        ),
        (
            Kind::DrGrpo,
            &outcome,
            vec![vec![vec![0.5], vec![0.0], vec![-0.5]], vec![vec![0.0]]],
        ),
        // 1 - (1/2 + 0) / 2, 1/2 - (1 + 0) / 2, 0 - (1 + 1/2) / 2
        (
            Kind::Rloo,
            &outcome,
            vec![vec![vec![0.75], vec![0.0], vec![-0.75]], vec![vec![0.0]]],
        ),
        // batch mean (1 + 1/2 + 0 + 1/4) / 4 = 0.4375
        (
            Kind::Reinforce,
            &outcome,
            vec![
                vec![vec![0.5625], vec![0.0625], vec![-0.4375]],
                vec![vec![-0.1875]],
            ],
        ),
        (
            Kind::Delta,
            &process,
            vec![vec![vec![-0.25, 0.5, -0.25], vec![0.0]]],
        ),
        (
            Kind::End,
            &process,
            vec![vec![vec![-0.25, 0.25, 0.75], vec![0.25]]],
        ),
        // baseline (3/4 + 1/4) / 2 = 1/2
        (
            Kind::Group,
            &process,
            vec![vec![vec![0.0, 0.5, 0.25], vec![-0.25]]],
        ),
        (
            Kind::Batch,
            &process,
            vec![vec![vec![0.0, 0.5, 0.25], vec![-0.25]]],
        ),
        (Kind::Raw, &process, process.clone()),
        (
            Kind::FirstError,
            &process,
            vec![vec![vec![-1.0, 0.0, 0.0], vec![-1.0]]],
        ),
        (
            Kind::StepOutcome,
            &process,
            vec![vec![
                vec![
                    -0.125 * step + final_part,
                    0.375 * step + final_part,
                    0.125 * step + final_part,
                ],
                vec![-0.375 * step - final_part],
            ]],
        ),
    ];
    for (kind, groups, expected) in cases {
        assert_close(&run(groups, settings(kind)).unwrap(), &expected);
    }
}

#[test]
fn batch_takes_its_mean_over_the_rollouts_of_all_groups() {
    let groups = [
        vec![vec![0.5, 1.0, 0.75]],
        vec![vec![0.25], vec![f64::NAN, 1.0]],
    ];
    // (3/4 + 1/4) / 2
    let out = vec![f64::NAN, f64::NAN];
    let expected = [vec![vec![0.0, 0.5, 0.25]], vec![vec![-0.25], out]];
    assert_close(&run(&groups, settings(Kind::Batch)).unwrap(), &expected);
}

#[test]
fn a_grade_of_four_is_no_error() {
    let found = run(
        &[vec![vec![1.0, 0.75, 0.5, 1.0]]],
        settings(Kind::FirstError),
    );
    assert_close(&found.unwrap(), &[vec![vec![1.0, 1.0, -1.0, 0.0]]]);
}

#[test]
fn published_end_subtracts_the_final_score_everywhere() {
    let groups = [vec![vec![0.5, 1.0, 0.75], vec![0.25]]];
    let published = Settings {
        published: Some(Published {
            response_width: None,
        }),
        ..settings(Kind::End)
    };
    assert_close(
        &run(&groups, published).unwrap(),
        &[vec![vec![-0.25, 0.25, 0.0], vec![0.0]]],
    );
    // Cut by length: the scores are 0, the final score that is subtracted is not.
    assert_close(
        &run_cut(&groups, &[true, false], published).unwrap(),
        &[vec![vec![-0.75, -0.75, -0.75], vec![0.0]]],
    );
    // The paper's equation does not ask what was cut.
    assert_close(
        &run_cut(&groups, &[true, false], settings(Kind::End)).unwrap(),
        &[vec![vec![-0.25, 0.25, 0.75], vec![0.25]]],
    );
}

#[test]
fn published_has_no_floor_under_the_spread() {
    let groups = [vec![vec![0.75], vec![0.7501]]];
    let published = Settings {
        published: Some(Published {
            response_width: None,
        }),
        ..settings(Kind::Grpo)
    };
    let found = run(&groups, published).unwrap();
    assert!((found[0][1][0] - 0.7).abs() < 0.02, "{found:?}");
    let floored = run(&groups, settings(Kind::Grpo)).unwrap();
    // 0.00005 / 0.050001
    assert!((floored[0][1][0] - 0.001).abs() < 1e-6, "{floored:?}");
}

#[test]
fn a_single_segment_under_delta_is_what_the_setting_says() {
    let groups = [vec![vec![1.0], vec![0.25, 0.5], vec![f64::NAN, 0.0]]];
    let out = vec![f64::NAN, f64::NAN];
    for (single_segment, first) in [
        (SingleSegment::Zero, 0.0),
        (SingleSegment::Score, 1.0),
        // mean of the final scores 1 and 1/2
        (SingleSegment::Group, 0.25),
    ] {
        let settings = Settings {
            single_segment,
            ..settings(Kind::Delta)
        };
        let expected = [vec![vec![first], vec![-0.25, 0.25], out.clone()]];
        assert_close(&run(&groups, settings).unwrap(), &expected);
    }
}

#[test]
fn published_divides_the_group_baseline_by_the_width_and_scores_single_segments() {
    let groups = [vec![vec![0.5, 1.0], vec![0.75]]];
    let published = Some(Published {
        response_width: Some(16_384),
    });
    let found = run(
        &groups,
        Settings {
            published,
            ..settings(Kind::Group)
        },
    )
    .unwrap();
    let baseline = 0.75 / 16_384.0;
    assert_close(
        &found,
        &[vec![
            vec![0.5 - baseline, 1.0 - baseline],
            vec![0.75 - baseline],
        ]],
    );

    let found = run(
        &groups,
        Settings {
            published,
            ..settings(Kind::Delta)
        },
    )
    .unwrap();
    assert_close(&found, &[vec![vec![-0.5, 0.5], vec![0.75]]]);

    for response_width in [None, Some(0)] {
        let published = Some(Published { response_width });
        let error = run(
            &groups,
            Settings {
                published,
                ..settings(Kind::Group)
            },
        )
        .unwrap_err();
        assert_eq!(error, Error::NoResponseWidth);
    }
}

#[test]
fn scores_outside_0_and_1_count_as_they_are_where_the_bounds_allow_them() {
    let wide = |kind| Settings {
        bounds: [-0.5, 1.5],
        ..settings(kind)
    };
    let groups = [vec![vec![-0.25, 1.25], vec![1.5, -0.5]]];
    let delta = run(&groups, wide(Kind::Delta)).unwrap();
    assert_close(&delta, &[vec![vec![-1.5, 1.5], vec![2.0, -2.0]]]);
    let end = run(&groups, wide(Kind::End)).unwrap();
    assert_close(&end, &[vec![vec![-1.5, 1.25], vec![2.0, -0.5]]]);
    let group = run(&groups, wide(Kind::Group)).unwrap();
    assert_close(&group, &[vec![vec![-0.75, 0.75], vec![1.0, -1.0]]]);
}

#[test]
fn errors_name_the_place_and_the_value() {
    let message = |scores: &[f64], seg_off: &[usize], group_off: &[usize], kind| {
        let batch = Batch {
            scores,
            seg_off,
            group_off,
            overlong: &[],
        };
        advantages(batch, settings(kind)).unwrap_err().to_string()
    };
    let grade = message(&[0.5, 4.0], &[0, 2], &[0, 1], Kind::Delta);
    assert_eq!(
        grade,
        "scores[1] is 4; a score is in [0, 1], or NaN where it is missing"
    );
    let infinite = message(&[f64::NEG_INFINITY], &[0, 1], &[0, 1], Kind::Grpo);
    assert!(infinite.starts_with("scores[0] is -inf"), "{infinite}");
    let two = message(&[0.5, 1.0], &[0, 2], &[0, 1], Kind::Rloo);
    assert!(
        two.starts_with("rollout 0 has 2 segments; rloo takes exactly one score"),
        "{two}"
    );
    for (seg_off, group_off, start) in [
        (&[1, 2][..], &[0, 1][..], "seg_off[0] is 1"),
        (&[0, 2, 1, 2], &[0, 3], "seg_off[2] is 1"),
        (&[0, 1], &[0, 1], "seg_off[1] is 1"),
        (&[0, 2], &[0, 2], "group_off[1] is 2"),
        (&[], &[0], "seg_off is empty"),
        (&[0, 2], &[], "group_off is empty"),
    ] {
        let found = message(&[0.5, 1.0], seg_off, group_off, Kind::Delta);
        assert!(found.starts_with(start), "{found}");
    }
    for (name, settings) in [
        (
            "std_floor is -0.1",
            Settings {
                std_floor: -0.1,
                ..settings(Kind::Grpo)
            },
        ),
        (
            "outcome_weight is NaN",
            Settings {
                outcome_weight: f64::NAN,
                ..settings(Kind::StepOutcome)
            },
        ),
        (
            "bounds are [1, 0]; they are two finite numbers",
            Settings {
                bounds: [1.0, 0.0],
                ..settings(Kind::Delta)
            },
        ),
        (
            "scores[0] is 0.5; a score is in [0.6, 2]",
            Settings {
                bounds: [0.6, 2.0],
                ..settings(Kind::Delta)
            },
        ),
    ] {
        let found = run(&[vec![vec![0.5]]], settings).unwrap_err().to_string();
        assert!(found.starts_with(name), "{found}");
    }
    let one_of_two = run_cut(&[vec![vec![0.5], vec![0.5]]], &[true], settings(Kind::End));
    let found = one_of_two.unwrap_err().to_string();
    assert!(
        found.starts_with("overlong has 1 entries for 2 rollouts"),
        "{found}"
    );
    let unknown = "grpoo".parse::<Kind>().unwrap_err().to_string();
    assert!(
        unknown.starts_with("unknown kind \"grpoo\"; choose one of grpo,"),
        "{unknown}"
    );
}
