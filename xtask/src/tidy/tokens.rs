//! What ships, as tokens: the source without what is compiled for tests or documentation only.
//!
//! Tokens rather than the parsed tree, because they go into macros as well.

use super::tree::Source;
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::Attribute;

/// What is set where something can be refused on request, and where rules can be broken.
const PROOFS: [&str; 2] = ["debug_assertions", "interleave"];
/// Words that an item or a statement begins with, if no comma ends it.
const BEGIN: [&str; 18] = [
    "pub",
    "fn",
    "impl",
    "use",
    "type",
    "struct",
    "enum",
    "mod",
    "static",
    "const",
    "unsafe",
    "extern",
    "trait",
    "let",
    "if",
    "match",
    "for",
    "macro_rules",
];

/// The tokens of `source` that are compiled outside tests; none for a file
/// that only tests reach.
pub fn shipped(source: &Source) -> TokenStream {
    if source.test { TokenStream::new() } else { without(source.tokens.clone(), &for_tests) }
}

/// Of these the ones that are compiled without debug assertions, and without the rules to
/// break: what a release has.
pub fn released(source: &Source) -> TokenStream {
    without(shipped(source), &|attribute| {
        let text = attribute.to_string();
        text.starts_with("cfg") && !text.contains("not") && PROOFS.iter().any(|proof| text.contains(proof))
    })
}

/// `#[test]`, or a `#[cfg(…)]` that asks for it, for it or the models of loom, or for documentation.
pub fn only_for_tests(attr: &Attribute) -> bool {
    for_tests(attr.meta.to_token_stream())
}

fn for_tests(attribute: TokenStream) -> bool {
    let text = attribute.to_string();
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    match words[..] {
        ["test"] => true,
        ["cfg", ..] => {
            let asked = words.windows(2).any(|pair| pair[0] != "not" && pair[1] == "test");
            asked && !words.contains(&"any")
                || [["any", "test", "loom"], ["any", "doc", "doctest"]].iter().any(|any| words[1..] == *any)
        }
        _ => false,
    }
}

/// The tokens without the items, fields, arms and statements whose attribute is `left_out`.
fn without(tokens: TokenStream, left_out: &dyn Fn(TokenStream) -> bool) -> TokenStream {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) if is_attribute(&kept, &group) && left_out(group.stream()) => {
                kept.pop();
                let begins = tokens.peek().map(ToString::to_string).unwrap_or_default();
                let is_field = begins != "#" && !BEGIN.contains(&&*begins);
                tokens.find(|token| ends_item(token) || is_field && is(token, ','));
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), without(group.stream(), left_out));
                inner.set_span(group.span());
                kept.push(inner.into());
            }
            token => kept.push(token),
        }
    }
    kept.into_iter().collect()
}

fn is_attribute(before: &[TokenTree], group: &Group) -> bool {
    group.delimiter() == Delimiter::Bracket && before.last().is_some_and(|last| is(last, '#'))
}

fn ends_item(token: &TokenTree) -> bool {
    is(token, ';') || matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

/// Whether `token` is the punctuation `c`.
pub fn is(token: &TokenTree, c: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == c)
}

/// Calls `visit` with the tokens of each group, the outermost first.
pub fn each_group(tokens: TokenStream, visit: &mut impl FnMut(&[TokenTree])) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    visit(&tokens);
    for token in tokens {
        if let TokenTree::Group(group) = token {
            each_group(group.stream(), visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    fn ships(text: &str) -> String {
        shipped(&Tree::of(&[("a/src/lib.rs", text)]).sources[0]).to_string()
    }

    #[test]
    fn test_modules_and_functions_do_not_ship() {
        assert_eq!(
            ships("fn a() {} #[cfg(test)] mod tests { fn b() {} } #[test] fn c() {} fn d() {}"),
            "fn a () { } fn d () { }"
        );
        assert_eq!(ships("#[cfg(all(test, not(unix)))] use a::b; fn d() {}"), "fn d () { }");
        assert_eq!(ships("#[cfg(any(test, loom))] fn a() {} fn d() {}"), "fn d () { }");
        assert_eq!(ships("#[cfg(any(doc, doctest))] #[doc = a!()] pub mod b {} fn d() {}"), "fn d () { }");
    }

    #[test]
    fn tests_inside_of_an_impl_do_not_ship() {
        assert_eq!(ships("impl A { #[cfg(test)] fn b() { c() } fn d() {} }"), "impl A { fn d () { } }");
    }

    #[test]
    fn what_debug_assertions_and_flags_ask_for_is_not_released() {
        let released = |text| released(&Tree::of(&[("a/src/lib.rs", text)]).sources[0]).to_string();
        assert_eq!(released("#[cfg(debug_assertions)] type A = B<C, D>; fn d() {}"), "fn d () { }");
        assert_eq!(
            released("#[cfg(not(debug_assertions))] type A = B;"),
            "# [cfg (not (debug_assertions))] type A = B ;"
        );
        assert_eq!(released("struct A { #[cfg(interleave)] b: C, d: E }"), "struct A { d : E }");
        assert_eq!(
            released("fn a() { match b { #[cfg(interleave)] C::D => e, F => g } }"),
            "fn a () { match b { F => g } }"
        );
        assert_eq!(released("fn a() { #[cfg(interleave)] if b { c } d }"), "fn a () { d }");
        assert_eq!(released("#[cfg(interleave)] fn a<B, C>() {} fn d() {}"), "fn d () { }");
    }

    #[test]
    fn what_is_compiled_outside_of_tests_ships() {
        assert_eq!(ships("#[cfg(not(test))] fn a() {}"), "# [cfg (not (test))] fn a () { }");
        assert_eq!(ships("#[cfg(any(test, x))] fn a() {}"), "# [cfg (any (test , x))] fn a () { }");
    }
}
