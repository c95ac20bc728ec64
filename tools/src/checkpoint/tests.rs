//! Checkpoints on disk: what is written comes back, what is damaged is named, what fails leaves nothing half done.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lmc_graph::Literal;
use proptest::prelude::*;

use super::manifest::STATE;
use super::manifest::tests::rewrite_as_format_1;
use super::write::{needed_bytes, save_with, write_folder};
use super::*;
use crate::tokenizer::CharTokenizer;

fn example(step: u64) -> Checkpoint {
    let tensor = |value: f32| Literal::new([2, 2], &[value, 2.0, f32::NAN, -0.0]);
    Checkpoint {
        step,
        seed: 1337,
        config_hash: "abc".to_owned(),
        config_toml: Some("[train]\nsteps = 9\n".to_owned()),
        graph_hash: Some("def".to_owned()),
        tokenizer_hash: Some("123".to_owned()),
        rows: Some(step * 4),
        learning_rate: Some(0.1 + 0.2),
        val_loss: (step == 200).then_some(2.5),
        data: Some(serde_json::json!({"train": {"tokens": 7}})),
        model: Tensors::from([
            ("lm_head.weight".to_owned(), tensor(-1.0)),
            ("wte.weight".to_owned(), tensor(step as f32)),
        ]),
        optimizer: Tensors::from([
            ("m.wte.weight".to_owned(), tensor(0.5)),
            ("step".to_owned(), Literal::scalar(7i32)),
        ]),
        tokenizer: Some(Tokenizer::Char(CharTokenizer::new("ab\"\n".chars(), true).unwrap())),
        config_json: Some(serde_json::json!({"model_type": "gpt2", "n_embd": 4})),
    }
}

fn saved(steps: &[u64]) -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    steps.iter().for_each(|&step| _ = save(run.path(), &example(step)).unwrap());
    run
}

fn names(run: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(folder(run)).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_comes_back() {
    let run = saved(&[5, 200, 30]);
    let newest = newest_valid(run.path()).unwrap();
    let (path, checkpoint) = newest.found.unwrap();
    assert!(path.ends_with("checkpoints/step-00000200") && newest.passed_over.is_empty());
    assert_eq!(checkpoint, example(200));
    assert_eq!(list(run.path()).unwrap().iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 30, 200]);
    let bare = Checkpoint {
        config_toml: None,
        graph_hash: None,
        tokenizer_hash: None,
        learning_rate: None,
        val_loss: None,
        data: None,
        tokenizer: None,
        config_json: None,
        ..example(200)
    };
    let summary = save(run.path(), &bare).unwrap();
    assert_eq!(read(&summary.path).unwrap(), bare, "saved over one of the same step");
    assert_eq!(names(run.path()).len(), 3, "nothing is left behind");
    assert_eq!(newest_valid(&run.path().join("none")).unwrap(), Newest::default());
}

#[test]
fn what_is_asked_of_the_disk_is_what_is_taken() {
    let run = saved(&[200]);
    let path = folder(run.path()).join("step-00000200");
    let summary = inspect(200, &path);
    assert_eq!((summary.val_loss, &summary.damage), (Some(2.5), &Vec::new()));
    let taken: u64 = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let state = fs::metadata(path.join(STATE)).unwrap().len();
    assert_eq!(summary.bytes, taken - state);
    let needed = needed_bytes(&example(200));
    // The rounding up of a few files is all that is asked for beyond.
    assert!((taken..taken + (64 << 10)).contains(&needed), "{taken} taken, {needed} asked for");
}

#[test]
fn a_checkpoint_of_format_1_is_read() {
    let run = saved(&[3]);
    let path = folder(run.path()).join("step-00000003");
    rewrite_as_format_1(&path);
    let old = Checkpoint {
        config_toml: None,
        graph_hash: None,
        tokenizer_hash: None,
        rows: None,
        learning_rate: None,
        data: None,
        ..example(3)
    };
    assert_eq!(read(&path).unwrap(), old);
    // White space means nothing there, and values do.
    let text = fs::read_to_string(path.join(STATE)).unwrap();
    fs::write(path.join(STATE), text.replace("\"step\": 3", "\"step\":  3")).unwrap();
    assert_eq!(read(&path).unwrap(), old);
    fs::write(path.join(STATE), text.replace("\"step\": 3", "\"step\": 4")).unwrap();
    assert!(read(&path).unwrap_err().message().contains("SHA-256"));
}

#[test]
fn damaged_checkpoints_are_passed_over_with_the_reason() {
    type Damaging = (&'static str, fn(&Path));
    let flip = |path: PathBuf, from_end: usize| {
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    let damages: [Damaging; 10] = [
        ("state.json: is of step 1, and the folder's name says 2", |path| {
            fs::remove_dir_all(path).unwrap();
            fs::create_dir(path).unwrap();
            for entry in fs::read_dir(path.with_file_name("step-00000001")).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
            }
        }),
        ("model.safetensors: no such file", |path| fs::remove_file(path.join(MODEL)).unwrap()),
        ("optimizer.safetensors: 20 bytes, and state.json says", |path| {
            fs::File::options().write(true).open(path.join(OPTIMIZER)).unwrap().set_len(20).unwrap();
        }),
        ("state.json: no such file", |path| fs::remove_file(path.join(STATE)).unwrap()),
        ("state.json: EOF", |path| fs::write(path.join(STATE), "{").unwrap()),
        ("format 9; this version", |path| fs::write(path.join(STATE), "{\"format\": 9}").unwrap()),
        ("state.json: not a directory", |path| {
            fs::remove_dir_all(path).unwrap();
            fs::write(path, "x").unwrap();
        }),
        (
            "model.safetensors: its SHA-256 is not the one in state.json: the file has changed, in tensor `wte.weight`",
            { |path| fs::write(path.join(MODEL), changed(path, |bytes| *bytes.last_mut().unwrap() ^= 1)).unwrap() },
        ),
        ("in tensor `lm_head.weight`, `wte.weight`", {
            |path| {
                let both = |bytes: &mut Vec<u8>| {
                    let end = bytes.len();
                    bytes[end - 32] ^= 1;
                    bytes[end - 1] ^= 1;
                };
                fs::write(path.join(MODEL), changed(path, both)).unwrap();
            }
        }),
        ("the file has changed, in its header", {
            // A space of the padding, which changes no tensor.
            |path| {
                let tab = |bytes: &mut Vec<u8>| {
                    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                    let braces = bytes[..8 + length].windows(2).position(|pair| pair == b"},").unwrap();
                    bytes[braces - 1] ^= 1;
                };
                fs::write(path.join(MODEL), changed(path, tab)).unwrap();
            }
        }),
    ];
    for (expected, damage) in damages {
        let run = saved(&[1, 2]);
        damage(&folder(run.path()).join("step-00000002"));
        let newest = newest_valid(run.path()).unwrap();
        assert_eq!(newest.found.unwrap().1.step, 1, "{expected}");
        let [(path, reason)] = newest.passed_over.as_slice() else { panic!("{expected}: one is passed over") };
        assert!(path.ends_with("step-00000002") && reason.contains(expected), "{expected}: {reason}");
        let found = inspect(2, path).damage;
        assert_eq!(read::describe(&found), *reason, "both ways to look say the same");
    }
    // Two files at once are both named.
    let run = saved(&[1]);
    let path = folder(run.path()).join("step-00000001");
    flip(path.join(MODEL), 1);
    flip(path.join(CONFIG_TOML), 3);
    let reason = &newest_valid(run.path()).unwrap().passed_over[0].1;
    assert!(reason.contains("model.safetensors: its") && reason.contains("; ") && reason.contains("config.toml: its"));
}

/// The bytes of the model's file after a change.
fn changed(path: &Path, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = fs::read(path.join(MODEL)).unwrap();
    change(&mut bytes);
    bytes
}

#[test]
fn a_partial_folder_is_no_checkpoint_and_no_hindrance() {
    let run = saved(&[1]);
    let partial = folder(run.path()).join(".step-00000002.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join(MODEL), "half").unwrap();
    assert_eq!(newest_valid(run.path()).unwrap().found.unwrap().1.step, 1);
    save(run.path(), &example(2)).unwrap();
    assert_eq!(newest_valid(run.path()).unwrap().found.unwrap().1, example(2));
}

#[test]
fn what_a_killed_process_left_is_cleaned() {
    let run = saved(&[1, 2, 3]);
    let all = folder(run.path());
    fs::rename(all.join("step-00000002"), all.join(".step-00000002.replaced")).unwrap();
    for name in [".step-00000001.replaced", ".step-00000004.partial", ".step-00000000.pruned", ".notes", "mine"] {
        fs::create_dir(all.join(name)).unwrap();
    }
    fs::write(all.join(".step-00000005.partial"), "a file").unwrap();
    assert_eq!(clean(run.path()).unwrap().len(), 5);
    assert_eq!(names(run.path()), [".notes", "mine", "step-00000001", "step-00000002", "step-00000003"]);
    assert_eq!(read(&all.join("step-00000002")).unwrap(), example(2), "it was not replaced, so it is back");
    assert_eq!(clean(run.path()).unwrap(), [] as [PathBuf; 0]);
    assert_eq!(clean(&run.path().join("none")).unwrap(), [] as [PathBuf; 0]);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let run = tempfile::tempdir().unwrap();
    fs::write(folder(run.path()), "a file where the folder belongs").unwrap();
    let error = save(run.path(), &example(1)).unwrap_err();
    assert!(error.message().starts_with("cannot write the checkpoint") && error.exit_code() == 1, "{error}");
}

/// Every change to the disk fails once, with and without a process that lives to tidy up.
#[test]
fn wherever_writing_fails_nothing_whole_is_lost_and_nothing_partial_has_a_name() {
    let new = Checkpoint { val_loss: Some(1.0), ..example(2) };
    for killed in [false, true] {
        for fail_at in 0.. {
            let run = saved(&[1, 2]);
            let all = folder(run.path());
            let (target, partial) = (all.join("step-00000002"), all.join(".step-00000002.partial"));
            let calls = Mutex::new(Vec::new());
            let before = |what: &str| {
                let mut calls = calls.lock().unwrap();
                calls.push(what.to_owned());
                if calls.len() == fail_at + 1 { Err(io::Error::other("injected")) } else { Ok(()) }
            };
            let result = match killed {
                false => save_with(run.path(), &new, &before).map(|_| ()).map_err(|error| error.to_string()),
                true => write_folder(&all, &partial, &target, &new, &before).map(|_| ()).map_err(|e| e.to_string()),
            };
            let calls = calls.into_inner().unwrap();
            let failed = calls.last().unwrap();
            if result.is_ok() {
                assert!(fail_at > 20 && calls.len() == fail_at, "every place has failed once: {calls:?}");
                break;
            }
            assert!(result.unwrap_err().contains("injected"));
            let whole = |at: &str| {
                for (step, path) in list(run.path()).unwrap() {
                    let found = read(&path).unwrap_or_else(|error| panic!("{failed}, {at}: {error}"));
                    assert!(found == example(step) || found == new, "{failed}, {at}: step {step}");
                }
                list(run.path()).unwrap().len()
            };
            assert_eq!(whole("then"), 2, "{failed}");
            if !killed {
                assert!(!partial.exists(), "{failed}: {:?}", names(run.path()));
            }
            clean(run.path()).unwrap();
            assert_eq!(whole("cleaned"), 2, "{failed}");
            assert_eq!(names(run.path()), ["step-00000001", "step-00000002"], "{failed}");
            save(run.path(), &new).unwrap();
            assert_eq!(newest_valid(run.path()).unwrap().found.unwrap().1, new, "{failed}");
        }
    }
}

/// Whoever looks at the folder while it is written to sees whole checkpoints only.
#[test]
fn a_reader_never_sees_a_partial_checkpoint() {
    let run = saved(&[1]);
    let done = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let looks = Cell::new(0);
            while !done.load(Ordering::Relaxed) {
                for (_, path) in list(run.path()).unwrap() {
                    match read::read_folder(&path) {
                        Ok(found) => assert_eq!(found, example(found.step)),
                        // It was pruned between being listed and being read.
                        Err(_) => assert!(!path.exists(), "{} is there and not whole", path.display()),
                    }
                }
                looks.set(looks.get() + 1);
            }
            looks.get()
        });
        let retention = Retention { keep_last: 2, keep_every: 0, keep_best: 0 };
        let mut inspected = Inspected::default();
        for step in 2..40 {
            inspected.written(save(run.path(), &example(step)).unwrap());
            prune(run.path(), &retention, &mut inspected).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(looks > 0);
    assert_eq!(names(run.path()), ["step-00000038", "step-00000039"]);
}

#[test]
fn pruning_counts_what_is_whole_now() {
    let run = saved(&[1, 2, 3]);
    let all = folder(run.path());
    let retention = Retention { keep_last: 2, keep_every: 0, keep_best: 0 };
    let mut inspected = Inspected::default();
    // All are known to be whole, and then one is damaged.
    for (step, path) in list(run.path()).unwrap() {
        assert!(inspected.inspect(step, &path).damage.is_empty());
    }
    fs::write(all.join("step-00000003").join(MODEL), "x").unwrap();
    assert_eq!(prune(run.path(), &retention, &mut inspected).unwrap(), [] as [PathBuf; 0]);
    inspected.written(save(run.path(), &example(4)).unwrap());
    assert_eq!(prune(run.path(), &retention, &mut inspected).unwrap(), [all.join("step-00000001")]);
    assert_eq!(names(run.path()), ["step-00000002", "step-00000003", "step-00000004"], "the damaged one stays");
}

#[test]
fn pruning_reads_all_that_it_decides_by() {
    let run = tempfile::tempdir().unwrap();
    let losses = [(2, 1.0), (3, 5.0), (4, 2.0), (5, 3.0), (6, 6.0), (7, 4.0), (8, 7.0)];
    for (step, loss) in losses {
        save(run.path(), &Checkpoint { val_loss: Some(loss), ..example(step) }).unwrap();
    }
    // The best, the last and one to be removed are damaged in ways that `state.json` does not tell.
    for step in [2, 6, 8] {
        fs::write(folder(run.path()).join(format!("step-{step:08}")).join(MODEL), "x").unwrap();
    }
    let retention = Retention { keep_last: 1, keep_every: 3, keep_best: 1 };
    let removed = prune(run.path(), &retention, &mut Inspected::default()).unwrap();
    assert_eq!(removed, [folder(run.path()).join("step-00000005")]);
    // 2 and 8 are damaged, 3 and 6 are kept for their steps, 4 is the best that is whole, and 7 the last.
    assert_eq!(names(run.path()), [2, 3, 4, 6, 7, 8].map(|step| format!("step-{step:08}")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_flipped_byte_is_noticed(
        name in prop::sample::select(vec![MODEL, OPTIMIZER, CONFIG_JSON, CONFIG_TOML, TOKENIZER, STATE]),
        at: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let run = saved(&[1]);
        let path = folder(run.path()).join("step-00000001");
        let file = path.join(name);
        let mut bytes = fs::read(&file).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(&file, bytes).unwrap();
        let newest = newest_valid(run.path()).unwrap();
        prop_assert_eq!(newest.found, None);
        prop_assert!(newest.passed_over[0].1.contains(name), "{}", newest.passed_over[0].1);
        let damage = inspect(1, &path).damage;
        prop_assert_eq!(damage.len(), 1);
        prop_assert_eq!(&damage[0].file, name);
    }
}
