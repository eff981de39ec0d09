//! One form for all spellings of a text that differ in letter case only.

/// `text` in a form in which letter case does not count: two texts have the same form if a server that
/// compares by small letters, or one that compares by capital letters, takes them for the same.
///
/// Each character is folded by itself, to one character. `ſ` and `s` have one capital letter, so have `σ`
/// and `ς`; the Kelvin sign and `K` have one small letter.
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.chars().map(fold_character).collect() }
}

fn fold_character(character: char) -> char {
    let mut upper = character.to_uppercase();
    let upper = match (upper.next(), upper.next()) {
        (Some(only), None) => only,
        // `ß` has no capital letter of its own.
        (_, _) => character,
    };
    // The small letter of `İ` is an `i`, with a dot that not every server adds.
    upper.to_lowercase().next().unwrap_or(upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_that_some_server_takes_for_one_have_one_form() {
        for (one, other) in [
            ("secret", "SECRET"),
            ("secret", "ſecret"),
            ("kelvin", "\u{212a}elvin"),
            ("ΟΔΟΣ", "οδος"),
            ("οδοσ", "οδος"),
            ("Été", "ÉTÉ"),
            ("file", "fİle"),
            ("file", "fıle"),
            ("straẞe", "straße"),
            ("µ", "μ"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} and {other}");
        }
        for (one, other) in [("straße", "strasse"), ("e", "é"), ("ﬁle", "file")] {
            assert_ne!(fold(one), fold(other), "{one} and {other}");
        }
    }
}
