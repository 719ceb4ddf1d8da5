//! The name of a rule means one thing in a crate: it is defined once there.
//!
//! A rule is defined in the header of the module or the item that keeps it, as `- **G3** …`. How
//! another module keeps it too is said there as `- G3: …`.

use super::Finding;
use super::tree::{Source, Tree};
use std::collections::BTreeMap;

/// Names that the headers of a crate define more than once.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut first: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for source in &tree.sources {
        let Some((package, _)) = source.path.split_once("/src/") else { continue };
        for (line, rule) in defined(source) {
            if let Some(before) = first.insert((package, rule), &source.path) {
                let what = format!("{rule} is defined in {before}: `- {rule}: …` is how this module keeps it");
                findings.push(Finding::new(&source.path, line, what));
            }
        }
    }
    findings
}

/// The rules that the headers of the file define, each with its line.
fn defined(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let documentation = |line: &str| ["//!", "///"].iter().any(|begin| line.starts_with(begin));
    let lines = source.lines.iter().map(|line| line.trim_start()).enumerate();
    let lines = lines.filter(move |(_, line)| documentation(line));
    lines.filter_map(|(at, line)| Some((at + 1, name(line[3..].trim_start().strip_prefix("- **")?)?)))
}

/// The rule's name that the text begins with: capital letters and a number.
fn name(text: &str) -> Option<&str> {
    let (name, _) = text.split_once(|c: char| !c.is_ascii_alphanumeric())?;
    let number = name.trim_start_matches(|c: char| c.is_ascii_uppercase());
    (number.len() < name.len() && !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(a: &str, b: &str) -> Vec<String> {
        let tree =
            Tree::of(&[("vmalloc/src/lib.rs", "mod a; mod b;"), ("vmalloc/src/a.rs", a), ("vmalloc/src/b.rs", b)]);
        check(&tree).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_rule_that_two_modules_define_is_found() {
        let found = ["vmalloc/src/b.rs:2: G3 is defined in vmalloc/src/a.rs: `- G3: …` is how this module keeps it"];
        assert_eq!(said("//! - **G3** So.", "//! # Rules\n//! - **G3** Or so."), found);
        assert_eq!(said("//! - **G3 frames.** So.", "//!\n//!   - **G3 by type.** Or so."), found);
        assert_eq!(said("//! - **G3** So.\n//! - **G3** So.", ""), [found[0].replace("b.rs", "a.rs")]);
    }

    #[test]
    fn a_name_of_two_letters_and_one_in_the_header_of_an_item_are_names_of_rules() {
        let found = ["vmalloc/src/b.rs:1: PC6 is defined in vmalloc/src/a.rs: `- PC6: …` is how this module keeps it"];
        assert_eq!(said("//! - **PC6** So.", "//! - **PC6** Or so."), found);
        assert_eq!(said("//! - **PC6** So.", "/// - **PC6** Or so.\nstruct S;"), found);
        assert_eq!(said("//! - **PC6** So.", "//! - **C6** So.\n//! - **PC** So.\n//! - **6** So."), [""; 0]);
    }

    #[test]
    fn each_crate_has_names_of_its_own() {
        let (root, rule) = ("//! - **J14** So.\nmod m;", "//! - **J14** Or so.");
        let found = |other: &str| check(&Tree::of(&[("kernel/src/lib.rs", root), (other, rule)])).len();
        assert_eq!(found("suite/src/lib.rs"), 0);
        assert_eq!(found("kernel/src/m.rs"), 1, "the library is not the only crate that is looked at");
    }

    #[test]
    fn what_keeps_a_rule_too_and_what_is_no_rule_is_fine() {
        assert_eq!(said("//! - **G3** So.", "//! - G3: here so.\n//! - **G31** Else.\n//! - G3."), [""; 0]);
        assert_eq!(
            said("//! - **the first** So.\n//! - **A** So.", "//! - **the first** So.\n//! - **A** So."),
            [""; 0]
        );
    }
}
