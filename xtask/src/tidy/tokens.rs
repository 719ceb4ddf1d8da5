//! What ships, as tokens: the source without what is compiled for tests only.
//!
//! Tokens rather than the parsed tree, because they go into macros as well.

use super::tree::Source;
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::ToTokens;
use syn::Attribute;

/// The tokens of `source` that are compiled outside tests; none for a file
/// that only tests reach.
pub fn shipped(source: &Source) -> TokenStream {
    if source.test { TokenStream::new() } else { without_tests(source.tokens.clone()) }
}

/// `#[test]`, or a `#[cfg(…)]` that asks for it.
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
        }
        _ => false,
    }
}

fn without_tests(tokens: TokenStream) -> TokenStream {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) if opens_test(&kept, &group) => {
                kept.pop();
                tokens.find(ends_item);
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), without_tests(group.stream()));
                inner.set_span(group.span());
                kept.push(inner.into());
            }
            token => kept.push(token),
        }
    }
    kept.into_iter().collect()
}

fn opens_test(before: &[TokenTree], group: &Group) -> bool {
    group.delimiter() == Delimiter::Bracket
        && before.last().is_some_and(|last| is(last, '#'))
        && for_tests(group.stream())
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
    }

    #[test]
    fn tests_inside_of_an_impl_do_not_ship() {
        assert_eq!(ships("impl A { #[cfg(test)] fn b() { c() } fn d() {} }"), "impl A { fn d () { } }");
    }

    #[test]
    fn what_is_compiled_outside_of_tests_ships() {
        assert_eq!(ships("#[cfg(not(test))] fn a() {}"), "# [cfg (not (test))] fn a () { }");
        assert_eq!(ships("#[cfg(any(test, x))] fn a() {}"), "# [cfg (any (test , x))] fn a () { }");
    }
}
