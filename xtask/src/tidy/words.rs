//! Words that belong to one workplace and not into the repository.

use super::Finding;
use super::tree::{Text, Tree};

/// Written in halves, so that this file is clean.
const FORBIDDEN: [&str; 4] = [
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("/wo", "rk/"),
    concat!("shared/", "reference"),
];

/// Each line that has one.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.texts.iter().flat_map(check_text).collect()
}

fn check_text(file: &Text) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
            findings.push(Finding::new(&file.path, at + 1, format!("names {word}, which no reader can see")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_word_is_found_in_any_file() {
        let text = format!("fine\nsee {}x\n", FORBIDDEN[2]);
        let tree = Tree::of(&[("a.md", &text)]);
        let what = format!("names {}, which no reader can see", FORBIDDEN[2]);
        assert_eq!(check(&tree), [Finding::new("a.md", 2, what)]);
    }

    #[test]
    fn the_site_of_a_crate_may_be_named() {
        assert_eq!(check(&Tree::of(&[("a.md", "on crates.io, https://crates.io/crates/x")])), []);
    }
}
