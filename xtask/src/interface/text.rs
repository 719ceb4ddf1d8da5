//! Tokens as a line that people read.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// The tokens on one line, without documentation.
pub fn tidy(tokens: TokenStream) -> String {
    let mut text = String::new();
    write(tokens, &mut text);
    text.trim().replace("  ", " ")
}

fn write(tokens: TokenStream, text: &mut String) {
    let mut tokens = tokens.into_iter().peekable();
    let mut joined = false;
    while let Some(token) = tokens.next() {
        let next_is_doc = matches!(tokens.peek(), Some(TokenTree::Group(group)) if is_doc(group.stream()));
        match token {
            TokenTree::Punct(mark) if mark.as_char() == '#' && next_is_doc => drop(tokens.next()),
            TokenTree::Punct(mark) => {
                punct(mark.as_char(), mark.spacing() == Spacing::Joint, joined, text);
                joined = mark.spacing() == Spacing::Joint;
                continue;
            }
            TokenTree::Group(group) => grouped(group.delimiter(), group.stream(), text),
            other => word(&other.to_string(), text),
        }
        joined = false;
    }
}

fn is_doc(attribute: TokenStream) -> bool {
    attribute.into_iter().next().is_some_and(|first| first.to_string() == "doc")
}

fn punct(mark: char, joint: bool, joined: bool, text: &mut String) {
    let binary = |text: &mut String| {
        if !joined && !text.ends_with(' ') {
            text.push(' ');
        }
    };
    match mark {
        '-' | '=' | '+' | '|' => binary(text),
        '\'' | '&' | '*' | '#' if !joined && text.ends_with(|c: char| c.is_alphanumeric()) => text.push(' '),
        '!' if text.ends_with("macro_rules ") => {}
        _ => {}
    }
    text.push(mark);
    let arrow = mark == '>' && (text.ends_with("->") || text.ends_with("=>"));
    let spaced = matches!(mark, ',' | ';' | '=' | '+' | '|') || mark == ':' && !joined || arrow;
    if spaced && !joint {
        text.push(' ');
    }
}

fn grouped(delimiter: Delimiter, inner: TokenStream, text: &mut String) {
    let (open, close) = match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::Brace => ("{ ", " }"),
        Delimiter::None => ("", ""),
    };
    if delimiter == Delimiter::Brace && !text.ends_with(' ') {
        text.push(' ');
    }
    text.push_str(open);
    let mut within = String::new();
    write(inner, &mut within);
    text.push_str(within.trim().trim_end_matches(','));
    text.push_str(close);
}

fn word(word: &str, text: &mut String) {
    if text.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ')' | ']' | '}' | '>')) {
        text.push(' ');
    }
    text.push_str(word);
}
