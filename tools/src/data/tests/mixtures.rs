//! Mixtures of sources: proportions, epochs, order, and what is refused.

use super::*;

/// Sources of running text, each with letters of its own, as `[[data.mixture]]`; with the weights of the config.
fn mixture(lengths: &[u32], weights: &[f64], sets: &[&str]) -> Data {
    let text = |source: u32, len: u32| (0..len).map(|i| char::from_u32(0x4E00 + 1000 * source + i).unwrap()).collect();
    let texts: Vec<(String, String)> =
        (0..).zip(lengths).map(|(source, &len)| (format!("t{source}"), text(source, len))).collect();
    let files: Vec<(&str, &[u8])> = texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    let tables = texts.iter().zip(weights).map(|((name, _), weight)| {
        format!("[[data.mixture]]\nname = '{name}'\nfiles = '$/{name}'\nweight = {weight}\n")
    });
    let data = format!("tokenizer='char'\nval_fraction=0\n{}", tables.collect::<String>());
    try_open(&files, &data, sets).unwrap().1
}

/// The source and the position in its text of the first token of each row.
fn starts(data: &Data, steps: u64) -> Vec<(usize, u32)> {
    let characters = data.tokenizer().unwrap();
    let rows = rows(data, steps).into_iter().map(|(tokens, _)| {
        let code = u32::from(characters.decode(&tokens[..1]).chars().next().unwrap()) - 0x4E00;
        (code as usize / 1000, code % 1000)
    });
    rows.collect()
}

#[test]
fn sources_take_their_shares_and_their_own_epochs() {
    let sets = ["data.order='sequential'", "train.micro_batch_size=1"];
    let data = mixture(&[41, 9], &[3.0, 1.0], &sets);
    let starts = starts(&data, 80);
    let of = |source| starts.iter().filter(|start| start.0 == source).map(|start| start.1).collect::<Vec<_>>();
    // Windows of 4 in sequence: ten, then again; two, then again.
    assert_eq!(of(0), (0..60).map(|row| row % 10 * 4).collect::<Vec<_>>());
    assert_eq!(of(1), (0..20).map(|row| row % 2 * 4).collect::<Vec<_>>());
    assert_eq!((data.train_tokens(), data.rows_per_epoch()), (48, 12));

    let sources = data.sources(80);
    let told: Vec<_> = sources.iter().map(|s| (s.name.as_str(), s.share, s.tokens, s.rows, s.epochs)).collect();
    assert_eq!(told, [("t0", 0.75, 40, 60, 6.0), ("t1", 0.25, 8, 20, 10.0)]);
    assert!(data.warnings(32).is_empty(), "2.4 and 4 epochs");
    let warnings = data.warnings(80);
    assert_eq!(warnings.len(), 2);
    assert!(warnings[1].starts_with("the source \"t1\" will be seen 10.0 times; more than 4"), "{warnings:?}");
}

#[test]
fn sources_of_one_size_are_not_shuffled_in_step() {
    let data = mixture(&[401, 401], &[1.0, 1.0], &["train.micro_batch_size=1"]);
    let starts = starts(&data, 200);
    let of = |source| starts.iter().filter(|start| start.0 == source).map(|start| start.1).collect::<Vec<_>>();
    assert_eq!((of(0).len(), of(1).len()), (100, 100));
    assert_ne!(of(0), of(1));
}

#[test]
fn every_source_holds_out_its_end() {
    let data = mixture(&[40, 20], &[1.0, 1.0], &["data.val_fraction=0.25"]);
    // 10 and 5 tokens are held out: pairs to predict are one fewer in each.
    assert_eq!((data.train_tokens(), data.held_out_tokens()), (29 + 14, 9 + 4));
    let labels: u64 = data.held_out_batches(1, 0).map(|batch| batch.unwrap().num_labels).sum();
    assert_eq!(labels, 13);
    assert_eq!(held_out(&data, 0).len(), 4, "rows of 4: three of the first, one of the second");
}

#[test]
fn the_first_held_out_rows_stand_for_all() {
    let data = mixture(&[500, 500], &[9.0, 1.0], &["data.val_fraction=0.4"]);
    let characters = data.tokenizer().unwrap();
    let sources = |limit| -> Vec<bool> {
        let of_second =
            |tokens: &[i32]| u32::from(characters.decode(&tokens[..1]).chars().next().unwrap()) >= 0x4E00 + 1000;
        held_out(&data, limit).iter().map(|(tokens, _)| of_second(tokens)).collect()
    };
    let count = |sources: &[bool]| sources.iter().filter(|&&second| second).count();
    // 50 rows each, of which the first 40: 20 each, standard deviation 2.5.
    assert_eq!((sources(0).len(), count(&sources(0))), (100, 50));
    assert!(count(&sources(20)).abs_diff(20) < 12, "{:?}", sources(20));
    assert_eq!(sources(20), sources(0)[..40]);
}

#[test]
fn rows_tell_where_they_come_from() {
    let data = mixture(&[41, 9], &[3.0, 1.0], &["train.micro_batch_size=1"]);
    let starts = starts(&data, 60);
    for (row, (source, position)) in (0..).zip(starts) {
        let Origin { source: name, epoch, places } = data.origin(row);
        assert_eq!(name, format!("t{source}"));
        let Place::Tokens { file, positions } = &places[0] else { panic!("{places:?}") };
        assert_eq!((file.ends_with(&name), positions.start), (true, u64::from(position)));
        let tokens = |place: &Place| match place {
            Place::Tokens { positions, .. } => positions.end - positions.start,
            Place::Line { .. } => 0,
        };
        assert_eq!(places.iter().map(tokens).sum::<u64>(), 4);
        assert!(epoch <= 7);
    }
}

#[test]
fn a_source_that_is_too_small_is_named() {
    let files: &[(&str, &[u8])] = &[("a", b"abcdefgh"), ("b", b"ab")];
    let data = "tokenizer='byte'\nmixture=[{files='$/a', weight=1}, {files='$/b', weight=1, name='small'}]";
    let error = try_open(files, data, &[]).unwrap_err();
    assert!(error.message().starts_with("the source \"small\" has 2 tokens, too few"), "{error}");
    assert!(error.message().contains(" --> run.toml:8:"), "{error}");
    let missing = data.replace("$/b", "$/none");
    let error = try_open(files, &missing, &[]).unwrap_err();
    assert!(error.message().contains("none: no such file"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In each of its epochs a source shows every pair at most once, and all but fewer than `seq_len` of them.
    #[test]
    fn every_token_of_a_source_s_epoch_is_seen_once(
        lengths in prop::collection::vec(6..60u32, 1..4), heavy in 1..9u32, seed in 0..1000u32, shuffle: bool,
    ) {
        let weights: Vec<f64> = (0..lengths.len() as u32).map(|i| f64::from(1 + i * heavy)).collect();
        let order = if shuffle { "shuffle" } else { "sequential" };
        let sets = [format!("train.seed={seed}"), format!("data.order={order}"), "train.micro_batch_size=1".to_owned()];
        let data = mixture(&lengths, &weights, &sets.each_ref().map(String::as_str));
        let mut seen: BTreeMap<(String, u64), BTreeMap<i32, u32>> = BTreeMap::new();
        const STEPS: u64 = 300;
        for (row, (tokens, labels)) in (0..).zip(rows(&data, STEPS)) {
            let Origin { source, epoch, .. } = data.origin(row);
            for (token, label) in tokens.into_iter().zip(labels) {
                prop_assert_eq!(label, token + 1);
                *seen.entry((source.clone(), epoch)).or_default().entry(token).or_default() += 1;
            }
        }
        for source in data.sources(STEPS) {
            for epoch in 0..source.epochs as u64 {
                let pairs = &seen[&(source.name.clone(), epoch)];
                prop_assert!(pairs.values().all(|&count| count == 1));
                prop_assert!(source.tokens - (pairs.len() as u64) < 4);
            }
        }
    }

    /// A batch of a mixture depends on its step alone.
    #[test]
    fn the_step_is_the_whole_cursor_of_a_mixture(from in 0..50u64, ahead in 0..6usize, weight in 0.1..10.0f64) {
        let data = mixture(&[50, 20, 30], &[1.0, weight, 2.0], &[]);
        let all: Vec<Batch> = data.batches(0..60).unwrap().map(Result::unwrap).collect();
        let later = Batches::start(Arc::clone(&data.train), from..60, data.shape, ahead).unwrap();
        let later: Vec<Batch> = later.map(Result::unwrap).collect();
        prop_assert_eq!(&all[from as usize..], &later);
    }
}
