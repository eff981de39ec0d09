//! Configurations: a text gives a configuration or faults, and each fault is at a place that there is.

use std::path::Path;

use faregate::config::{Config, Fault};

/// What every variable holds whose name begins with `S`. No fault may repeat it.
const SECRET: &str = "q9Zx7-not-to-be-shown";

/// The text is a whole file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| name.starts_with('S').then(|| SECRET.to_owned());
    let lines = lengths(text);
    let parse = || Config::parse(text, "faregate.yaml", Path::new("/nowhere"), env);
    match parse() {
        Ok(config) => {
            config.warnings.iter().for_each(|it| check(&lines, &it.0));
            assert_eq!(parse().as_ref(), Ok(&config), "read in two ways");
        }
        Err(found) => {
            assert!(!found.faults.is_empty());
            found.faults.iter().for_each(|it| check(&lines, it));
            assert!(found.faults.is_sorted_by_key(|it| it.mark), "not in the order of the lines");
            let shown = found.to_string();
            assert!(!shown.contains(SECRET), "a variable is shown: {shown}");
            assert!(shown.lines().count() >= found.faults.len());
            assert!(serde_json::to_string(&found).is_ok());
        }
    }
}

/// The length of each line, in characters. The parser ends lines at CR, too.
fn lengths(text: &str) -> Vec<usize> {
    text.replace("\r\n", "\n").split(['\n', '\r']).map(|it| it.chars().count()).collect()
}

fn check(lines: &[usize], fault: &Fault) {
    assert!(!fault.message.is_empty());
    assert!(fault.hint.as_ref().is_none_or(|it| !it.is_empty()));
    let Some(mark) = fault.mark else { return };
    // After the last line there may be the end of the file.
    assert!((1..=lines.len()).contains(&mark.line), "line {} of {}: {fault:?}", mark.line, lines.len());
    let length = lines[mark.line - 1];
    assert!((1..=length + 1).contains(&mark.column), "column {} of {length}: {fault:?}", mark.column);
}
