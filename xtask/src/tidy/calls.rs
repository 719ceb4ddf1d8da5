//! Calls that do not belong into what ships.
//!
//! `unwrap()`, `todo!`, `unimplemented!` and `dbg!` nowhere; in the library
//! `expect` only with the rule that makes it true: `expect("S3: …")`.

use super::Finding;
use super::tokens::{each_group, is, shipped};
use super::tree::{Source, Tree};
use proc_macro2::{Delimiter, Group, TokenTree};

/// Such calls outside of tests.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources.iter().flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let library = source.path.starts_with("vmalloc/");
    let mut findings = Vec::new();
    each_group(shipped(source), &mut |tokens| {
        for at in 0..tokens.len() {
            if let Some(what) = blame(&tokens[at..], library) {
                findings.push(Finding::new(&source.path, tokens[at].span().start().line, what));
            }
        }
    });
    findings
}

fn blame(tokens: &[TokenTree], library: bool) -> Option<String> {
    match tokens {
        [TokenTree::Ident(name), bang, TokenTree::Group(_), ..]
            if is(bang, '!') && ["todo", "unimplemented", "dbg"].iter().any(|bad| name == bad) =>
        {
            Some(format!("{name}! in what ships"))
        }
        [dot, TokenTree::Ident(name), TokenTree::Group(args), ..]
            if is(dot, '.') && args.delimiter() == Delimiter::Parenthesis =>
        {
            if name == "unwrap" && args.stream().is_empty() {
                Some("unwrap() in what ships: say why it holds, or refuse".into())
            } else if name == "expect" && library && !names_rule(args) {
                Some("expect() that names no rule".into())
            } else {
                None
            }
        }
        _ => None,
    }
}

/// Whether a word of the text is a rule's name: `S3`, `M2`, `T1`.
fn names_rule(args: &Group) -> bool {
    let text = args.stream().to_string();
    text.split(|c: char| !c.is_alphanumeric()).any(|word| {
        let number = word.trim_start_matches(|c: char| c.is_ascii_uppercase());
        number.len() < word.len() && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)])).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn unwrap_is_found_even_in_a_macro() {
        let found = ["a/src/lib.rs:2: unwrap() in what ships: say why it holds, or refuse"];
        assert_eq!(said("a/src/lib.rs", "fn f() {\n    x.unwrap();\n}"), found);
        assert_eq!(said("a/src/lib.rs", "fn f() {\n    assert!(x.unwrap());\n}"), found);
    }

    #[test]
    fn unwrap_or_and_a_function_called_unwrap_are_fine() {
        assert_eq!(said("a/src/lib.rs", "fn f() { x.unwrap_or(1); unwrap(); x.unwrap(&y) }"), [""; 0]);
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(said("a/src/lib.rs", "fn f() { todo!() }"), ["a/src/lib.rs:1: todo! in what ships"]);
        assert_eq!(said("a/src/lib.rs", "fn f() { dbg!(1) }"), ["a/src/lib.rs:1: dbg! in what ships"]);
    }

    #[test]
    fn tests_may_unwrap() {
        assert_eq!(said("a/src/lib.rs", "#[cfg(test)] mod tests { fn f() { x.unwrap() } }"), [""; 0]);
        assert_eq!(said("a/tests/t.rs", "fn f() { x.unwrap() }"), [""; 0]);
    }

    #[test]
    fn the_library_expects_by_rule() {
        let found = ["vmalloc/src/lib.rs:1: expect() that names no rule"];
        assert_eq!(said("vmalloc/src/lib.rs", "fn f() { x.expect(\"it is there\") }"), found);
        assert_eq!(said("vmalloc/src/lib.rs", "fn f() { x.expect(\"S3: it is there\") }"), [""; 0]);
        assert_eq!(said("a/src/lib.rs", "fn f() { x.expect(\"it is there\") }"), [""; 0]);
    }
}
