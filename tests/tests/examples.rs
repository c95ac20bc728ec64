//! The configurations in `examples/` are what the program takes.

use std::fs;

use lmc::config::Config;
use lmc_tests::source::{sources, workspace};

#[test]
fn configurations_are_valid() {
    let configs: Vec<_> = sources("examples").into_iter().filter(|source| source.path.ends_with(".toml")).collect();
    assert!(!configs.is_empty(), "examples/ has configurations");
    for config in configs {
        Config::read(&workspace().join(&config.path), &[]).unwrap_or_else(|error| panic!("{}: {error}", config.path));
    }
}

/// As `examples/names.md` says.
#[test]
fn names_are_distinct_and_lowercase() {
    let path = workspace().join("examples/names.txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let names: Vec<&str> = text.lines().collect();
    assert!(names.len() >= 5000, "{} names", names.len());
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "names are sorted and distinct");
    assert!(names.iter().all(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase())));
}
