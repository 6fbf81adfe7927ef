//! What a rollout's segments are, over every kind of decoder.

use std::str::FromStr;

use std::num::NonZeroUsize;

use exprl_steps::{Error, Rule, Segment, Settings, Splitter, split_text, split_text_at};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// Pieces that every decoder below gives a meaning of its own.
const TOKENS: &[&str] = &[
    "<unk>", "a", "b.", "#", "##", "###", "####", ".###", ".\n###", "\n", " ", "▁", "▁a", "▁###",
    "▁#", "##a", "é", "Ġ###", "Ċ", "âĸ", "ģ#", "Ã", "©##", "<0xE2>", "<0x96>", "<0x81>", "<0x23>",
    "<0x0A>", "<0xFF>", "a</w>", "###</w>", "  ", "", ".###a###",
];
/// Added after them: one that is left out of the text, one that is not.
const EOS: u32 = TOKENS.len() as u32;
const THINK: u32 = EOS + 1;

fn tokenizer_json(decoder: &Value) -> String {
    let vocab: serde_json::Map<String, Value> = TOKENS
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), json!(id)))
        .collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "added_tokens": [added(EOS, "<eos>", true), added(THINK, "<think> ###", false)],
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
    .to_string()
}

fn replace() -> Value {
    json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "})
}

fn sequence(decoders: &[Value]) -> Value {
    json!({"type": "Sequence", "decoders": decoders})
}

fn decoders() -> Vec<(&'static str, Value)> {
    let fuse = json!({"type": "Fuse"});
    let bytes = json!({"type": "ByteFallback"});
    let strip =
        |start, stop| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let metaspace = |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let word_piece = |cleanup| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    vec![
        ("none", Value::Null),
        ("fuse", fuse.clone()),
        ("byte level", byte_level.clone()),
        ("replace, byte level", sequence(&[replace(), byte_level])),
        ("metaspace", metaspace("always")),
        ("metaspace without prefix", metaspace("never")),
        (
            "replace, metaspace",
            sequence(&[sequence(&[replace()]), metaspace("first")]),
        ),
        ("word piece", word_piece(false)),
        ("word piece with clean-up", word_piece(true)),
        ("replace", replace()),
        ("byte fallback", bytes.clone()),
        ("gemma", sequence(&[replace(), bytes.clone(), fuse.clone()])),
        (
            "llama",
            sequence(&[replace(), bytes.clone(), fuse.clone(), strip(1, 0)]),
        ),
        (
            "fuse, strip",
            sequence(&[replace(), fuse.clone(), strip(2, 0)]),
        ),
        // Not known to the fast path.
        (
            "end of word",
            json!({"type": "BPEDecoder", "suffix": "</w>"}),
        ),
        (
            "byte fallback, then replace",
            sequence(&[bytes, replace(), fuse]),
        ),
    ]
}

fn splitter(decoder: &Value) -> Splitter {
    splitter_by(decoder, hashes())
}

fn splitter_by(decoder: &Value, settings: Settings) -> Splitter {
    Splitter::from_json(&tokenizer_json(decoder), settings).unwrap()
}

fn delimiter(text: &str) -> Settings {
    Settings::new(Rule::new("delimiter", text).unwrap())
}

fn hashes() -> Settings {
    delimiter("###")
}

fn rule(name: &str) -> Settings {
    Settings::new(Rule::new(name, "###").unwrap())
}

fn texts<'a>(text: &'a str, settings: &Settings) -> Vec<&'a str> {
    let steps = split_text(text, settings);
    steps.into_iter().map(|range| &text[range]).collect()
}

/// Segments of tokens written out, with the decoder that adds nothing.
fn split(tokens: &[&str]) -> Vec<(usize, usize, String)> {
    let ids: Vec<u32> = tokens
        .iter()
        .map(|&token| match token {
            "<eos>" => EOS,
            token => TOKENS.iter().position(|known| *known == token).unwrap() as u32,
        })
        .collect();
    let segments = splitter(&json!({"type": "Fuse"})).split(&ids).unwrap();
    segments
        .into_iter()
        .map(|segment| (segment.start, segment.end, segment.text))
        .collect()
}

fn segment(start: usize, end: usize, text: &str) -> (usize, usize, String) {
    (start, end, text.to_owned())
}

#[test]
fn no_tokens_have_no_segments_and_no_delimiter_means_one() {
    assert_eq!(split(&[]), []);
    assert_eq!(split(&["a", "\n", "#"]), [segment(0, 3, "a\n#")]);
    assert_eq!(split(&["<eos>"]), [segment(0, 1, "")]);
}

#[test]
fn text_before_the_first_delimiter_is_a_segment_unless_it_is_white_space() {
    assert_eq!(
        split(&["a", "###", "b."]),
        [segment(0, 1, "a"), segment(1, 3, "###b.")]
    );
    assert_eq!(
        split(&["\n", " ", "###", "b."]),
        [segment(0, 4, "\n ###b.")]
    );
    assert_eq!(split(&["###", "a"]), [segment(0, 2, "###a")]);
}

#[test]
fn a_longer_run_of_hashes_is_one_delimiter() {
    let expected = [segment(0, 1, "a"), segment(1, 4, "#######a")];
    assert_eq!(split(&["a", "####", "###", "a"]), expected);
    assert_eq!(
        split(&["a", "#", "##", "a"]),
        [segment(0, 1, "a"), segment(1, 4, "###a")]
    );
    assert_eq!(split(&["a", "##", "a"]), [segment(0, 3, "a##a")]);
}

#[test]
fn a_token_belongs_to_the_step_where_its_first_byte_lies() {
    let expected = [segment(0, 2, "a.\n###"), segment(2, 3, "b.")];
    assert_eq!(split(&["a", ".\n###", "b."]), expected);
}

#[test]
fn a_step_without_a_token_of_its_own_joins_its_neighbour() {
    // The last step would begin after the last token.
    assert_eq!(split(&["a", ".###"]), [segment(0, 2, "a.###")]);
    assert_eq!(split(&["a", ".###", "<eos>"]), [segment(0, 3, "a.###")]);
    // The run of six began in the second token, so the third is the first of its step.
    assert_eq!(
        split(&["a", ".###", "###"]),
        [segment(0, 2, "a.###"), segment(2, 3, "###")]
    );
    // Two steps would begin with the third token.
    let expected = [segment(0, 2, "a.###a###"), segment(2, 3, "b.")];
    assert_eq!(split(&["a", ".###a###", "b."]), expected);
}

#[test]
fn special_tokens_have_no_text_and_stay_with_the_step_before_them() {
    let expected = [segment(0, 2, "a"), segment(2, 5, "###b.")];
    assert_eq!(split(&["a", "<eos>", "###", "b.", "<eos>"]), expected);
    assert_eq!(split(&["<eos>", "###", "a"]), [segment(0, 3, "###a")]);
}

#[test]
fn a_character_cut_in_two_is_shown_where_its_first_byte_lies() {
    let splitter = splitter(&decoders()[2].1);
    let id = |token| TOKENS.iter().position(|known| *known == token).unwrap() as u32;
    // Ã + ©## + # are é### in bytes: C3 | A9 23 23 | 23.
    let ids = [id("a"), id("Ã"), id("©##"), id("#"), id("a")];
    let texts: Vec<String> = splitter
        .split(&ids)
        .unwrap()
        .into_iter()
        .map(|s| s.text)
        .collect();
    assert_eq!(texts, ["aé##", "#a"]);
}

#[test]
fn spaces_stripped_from_both_ends_leave_every_token_its_own_text() {
    let strip = json!({"type": "Strip", "content": " ", "start": 2, "stop": 3});
    let splitter = splitter(&sequence(&[replace(), json!({"type": "Fuse"}), strip]));
    let id = |token| TOKENS.iter().position(|known| *known == token).unwrap() as u32;
    // "  " | " a" | "###" | " " | "  " less two spaces in front and three behind.
    let ids = [id("  "), id("▁a"), id("###"), id(" "), id("  ")];
    let segments = splitter.split(&ids).unwrap();
    let found: Vec<_> = segments
        .iter()
        .map(|s| (s.start, s.end, s.text.as_str()))
        .collect();
    assert_eq!(found, [(0, 2, " a"), (2, 5, "###")]);
}

#[test]
fn other_delimiters_match_exactly_and_repeated_characters_match_runs() {
    assert_eq!(texts("a####b#", &delimiter("#")), ["a", "####b", "#"]);
    assert_eq!(texts("x## y", &delimiter("## ")), ["x", "## y"]);
    assert_eq!(texts("aabab", &delimiter("ab")), ["a", "ab", "ab"]);
    assert_eq!(texts("a§§b§c", &delimiter("§")), ["a", "§§b", "§c"]);
    assert_eq!(texts("a\n\n\nb", &delimiter("\n\n")), ["a", "\n\n\nb"]);
    assert_eq!(texts("", &delimiter("###")), [""; 0]);
    assert_eq!(texts(" \n###", &delimiter("###")), [" \n###"]);
}

#[test]
fn errors_name_what_is_wrong() {
    let json = tokenizer_json(&Value::Null);
    let error = Splitter::from_json(&json, hashes())
        .unwrap()
        .split(&[1, 999])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "token id 999 at position 1 is not in the tokenizer's vocabulary of 36 entries; was the \
         rollout sampled with another tokenizer?"
    );
    assert!(matches!(
        Rule::new("delimiter", ""),
        Err(Error::EmptyDelimiter)
    ));
    assert_eq!(
        Rule::new("sentence", "###").unwrap_err().to_string(),
        "there is no step rule \"sentence\"; the rules are delimiter, heading, paragraph, line; a \
         text of your own is the delimiter of the rule delimiter"
    );
    assert!(matches!(
        Splitter::from_json("{}", hashes()),
        Err(Error::Tokenizer(_))
    ));
    let generic = splitter(&json!({"type": "BPEDecoder", "suffix": "</w>"}));
    assert!(matches!(
        generic.split(&[999]),
        Err(Error::UnknownId {
            id: 999,
            position: 0,
            size: 36
        })
    ));
}

#[test]
fn a_token_that_rewrites_earlier_text_owns_what_it_wrote() {
    let id = |token| TOKENS.iter().position(|known| *known == token).unwrap() as u32;
    let rewrite = json!({"type": "Replace", "pattern": {"String": "a#"}, "content": "###!"});
    let splitter = splitter(&sequence(&[json!({"type": "Fuse"}), rewrite]));
    let segments = splitter.split(&[id("b."), id("a"), id("#")]).unwrap();
    let texts: Vec<&str> = segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect();
    assert_eq!(texts, ["b.", "###!"]);
    assert_eq!((segments[1].start, segments[1].end), (2, 3));
}

fn assert_tiles(segments: &[Segment], tokens: usize) {
    let mut next = 0;
    for segment in segments {
        assert_eq!(segment.start, next);
        assert!(segment.end > segment.start);
        next = segment.end;
    }
    assert_eq!(next, tokens);
}

/// Which step each token belongs to, by the letter: the one where its first byte lies. A step whose
/// tokens are white space has none of its own.
fn owners(tokens: &[&str], settings: &Settings) -> Vec<usize> {
    let steps = split_text(&tokens.concat(), settings);
    let mut owners: Vec<usize> = Vec::new();
    let mut at = 0;
    for token in tokens {
        let of_byte = steps.iter().position(|step| step.contains(&at));
        let before = owners.last().copied().unwrap_or(0);
        owners.push(if token.is_empty() {
            before
        } else {
            of_byte.unwrap()
        });
        at += token.len();
    }
    for step in 1..steps.len() {
        let own = || (0..tokens.len()).filter(|&token| owners[token] == step);
        let previous = own().next().and_then(|first| first.checked_sub(1));
        if let Some(previous) = previous
            && own().all(|token| tokens[token].trim().is_empty())
        {
            let joins = owners[previous];
            owners
                .iter_mut()
                .filter(|owner| **owner == step)
                .for_each(|owner| *owner = joins);
        }
    }
    owners
}

#[test]
fn segments_tile_the_tokens_and_their_texts_are_the_decoded_rollout() {
    for (name, decoder) in decoders() {
        let tokenizer = Tokenizer::from_str(&tokenizer_json(&decoder)).unwrap();
        let splitter = splitter(&decoder);
        proptest!(cases(), |(ids in ids())| {
            let segments = splitter.split(&ids).unwrap();
            assert_tiles(&segments, ids.len());
            let text: String = segments.into_iter().map(|segment| segment.text).collect();
            // The library's BPEDecoder overflows on no tokens.
            let only_special = ids.iter().all(|&id| id == EOS);
            let decoded =
                if only_special { String::new() } else { tokenizer.decode(&ids, true).unwrap() };
            prop_assert_eq!(text, decoded, "{}", name);
        });
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_token_is_in_the_segment_of_its_first_byte(
        ids in prop::collection::vec(0..THINK, 1..24), name in rule_names()
    ) {
        let texts: Vec<&str> =
            ids.iter().map(|&id| TOKENS.get(id as usize).copied().unwrap_or("")).collect();
        let settings = rule(name);
        let segments = splitter_by(&json!({"type": "Fuse"}), settings.clone()).split(&ids).unwrap();
        let mut starts = vec![0];
        let owners = owners(&texts, &settings);
        starts.extend((1..ids.len()).filter(|&token| owners[token] != owners[token - 1]));
        let found: Vec<usize> = segments.iter().map(|segment| segment.start).collect();
        prop_assert_eq!(found, starts);
    }

    #[test]
    fn steps_that_somebody_else_has_found_are_cut_as_a_rule_cuts_them(
        ids in ids(), text in lines_of_text(), name in rule_names(), most in 1_usize..5,
        which in any::<prop::sample::Index>()
    ) {
        let mut settings = rule(name);
        settings.max_steps = NonZeroUsize::new(most);
        let splitter = splitter_by(&which.get(&decoders()).1, settings.clone());
        let expected = splitter.split(&ids).unwrap();
        let whole: String = expected.iter().map(|segment| segment.text.as_str()).collect();
        let starts = character_starts(&whole, &rule(name));
        prop_assert_eq!(splitter.split_at(&ids, false, &starts).unwrap(), expected);

        let starts = character_starts(&text, &rule(name));
        prop_assert_eq!(split_text_at(&text, &starts, &settings), split_text(&text, &settings));
    }

    #[test]
    fn any_places_for_steps_tile_the_tokens(
        ids in ids(), mut starts in prop::collection::vec(0_usize..40, 0..12),
        which in any::<prop::sample::Index>()
    ) {
        starts.sort_unstable();
        let splitter = splitter_by(&which.get(&decoders()).1, hashes());
        let segments = splitter.split_at(&ids, false, &starts).unwrap();
        assert_tiles(&segments, ids.len());
        let blank = segments.iter().any(|segment| segment.text.trim().is_empty());
        prop_assert!(!blank || segments.len() <= 1);
    }

    #[test]
    fn tokens_of_one_character_are_cut_where_the_text_is(
        text in lines_of_text(), name in rule_names(), least in 1_usize..4, most in 1_usize..5
    ) {
        let ids: Vec<u32> = text.chars().map(|c| CHARACTERS.find(c).unwrap() as u32).collect();
        let segments = characters(rule(name)).split(&ids).unwrap();
        let found: Vec<&str> = segments.iter().map(|segment| segment.text.as_str()).collect();
        prop_assert_eq!(found, texts(&text, &rule(name)));

        let mut settings = rule(name);
        settings.max_steps = NonZeroUsize::new(most);
        let segments = characters(settings.clone()).split(&ids).unwrap();
        let found: Vec<&str> = segments.iter().map(|segment| segment.text.as_str()).collect();
        prop_assert_eq!(found, texts(&text, &settings));

        settings.min_size = NonZeroUsize::new(least).unwrap();
        let segments = characters(settings).split(&ids).unwrap();
        prop_assert!(segments.len() == 1 || segments.iter().all(|s| s.end - s.start >= least));
        prop_assert!(segments.len() <= most);
        assert_tiles(&segments, ids.len());
    }

    #[test]
    fn the_steps_of_a_text_tile_it_and_none_is_white_space(
        text in lines_of_text(), name in rule_names(), own in "###|#|a#|é|\n\n| "
    ) {
        for settings in [rule(name), delimiter(&own)] {
            let steps = texts(&text, &settings);
            prop_assert_eq!(steps.concat(), text.as_str());
            let blank = text.trim().is_empty();
            prop_assert!(blank || steps.iter().all(|step| !step.trim().is_empty()), "{:?}", steps);
            prop_assert!(!blank || steps.len() <= 1);
        }
    }
}

/// The characters at which the steps of a text start by a rule.
fn character_starts(text: &str, settings: &Settings) -> Vec<usize> {
    let steps = split_text(text, settings);
    steps
        .iter()
        .map(|step| text[..step.start].chars().count())
        .collect()
}

fn ids() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..=THINK, 0..24)
}

fn rule_names() -> impl Strategy<Value = &'static str> {
    prop::sample::select(Rule::NAMES.to_vec())
}

const CHARACTERS: &str = "a#\n `~$\\[]é\t|>";

fn lines_of_text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => "[a#`~$\\\\\\[\\]é\t|> ]{0,8}",
        4 => prop::sample::select(vec![
            "", "a", " ", "###", "   ### a", "```", "````a", "~~~", "$$", "\\[", "\\]", "    ```", "a $$a$$",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

/// A tokenizer whose tokens are single characters.
fn characters(settings: Settings) -> Splitter {
    let vocab: serde_json::Map<String, Value> = CHARACTERS
        .char_indices()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"},
    });
    Splitter::from_json(&json.to_string(), settings).unwrap()
}
