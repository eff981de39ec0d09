//! The answers of the admin API for people: a list as a table, anything else member by member.

use std::io::{self, Write};

use serde_json::Value;

use crate::admin::operations::Operation;

/// The member with the rows of a list, and its columns: a heading and a member of a row.
type Columns = (&'static str, &'static [(&'static str, &'static str)]);

const fn columns(operation: Operation) -> Option<Columns> {
    Some(match operation {
        Operation::ListPayments => (
            "payments",
            &[
                ("SINCE", "created_at"),
                ("STATE", "state"),
                ("MECHANISM", "mechanism"),
                ("XNO", "amount_xno"),
                ("BLOCK", "block"),
                ("ROUTE", "route"),
            ],
        ),
        Operation::ListCapabilities => (
            "capabilities",
            &[
                ("ID", "id"),
                ("STATE", "state"),
                ("LEFT", "left"),
                ("USES", "uses"),
                ("GRANTED", "granted_at"),
                ("EXPIRES", "expires_at"),
                ("FREE", "free"),
                ("ROUTE", "route"),
            ],
        ),
        Operation::ListRefunds => (
            "refunds",
            &[
                ("CLOSED", "closed_at"),
                ("STATE", "state"),
                ("XNO", "amount_xno"),
                ("CAPABILITY", "capability"),
                ("ACCOUNT", "account"),
            ],
        ),
        Operation::ListRoutes => {
            ("routes", &[("NAME", "name"), ("MATCH", "match"), ("PRICE", "price"), ("UPSTREAM", "upstream")])
        }
        Operation::ListNodes => (
            "nodes",
            &[
                ("NODE", "node"),
                ("UP", "up"),
                ("BREAKER", "breaker"),
                ("BEHIND", "behind"),
                ("TRUSTED", "trusted"),
            ],
        ),
        Operation::ListUpstreams => ("upstreams", &[("NAME", "name"), ("UP", "up"), ("SERVERS", "servers")]),
        Operation::ShowPayment
        | Operation::ShowCapability
        | Operation::GrantCapability
        | Operation::RevokeCapability
        | Operation::ShowPool
        | Operation::ShowStatus
        | Operation::Reload
        | Operation::Drain
        | Operation::ShowDocument => return None,
    })
}

/// Writes an answer.
pub(super) fn write(operation: Operation, answer: &Value, out: &mut dyn Write) -> io::Result<()> {
    let Some((member, columns)) = columns(operation) else { return fields(answer, "", out) };
    let none = Vec::new();
    let rows = answer.get(member).and_then(Value::as_array).unwrap_or(&none);
    let heading: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    let cell = |row: &Value, member: &str| row.get(member).map(plain).unwrap_or_default();
    let table: Vec<Vec<String>> = std::iter::once(heading)
        .chain(rows.iter().map(|row| columns.iter().map(|(_, member)| cell(row, member)).collect()))
        .collect();
    let mut widths = vec![0; columns.len()];
    for row in &table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &table {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    if let Some(next) = answer.get("next").and_then(Value::as_str) {
        writeln!(out, "there are more: --cursor {next}")?;
    }
    Ok(())
}

/// Writes each member, those of an object in it behind its name.
fn fields(value: &Value, prefix: &str, out: &mut dyn Write) -> io::Result<()> {
    let Some(members) = value.as_object() else { return writeln!(out, "{}", plain(value)) };
    for (name, value) in members {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Object(members) if !members.is_empty() => fields(value, &name, out)?,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => {
                writeln!(out, "{name:<20}  {}", plain(value))?;
            }
        }
    }
    Ok(())
}

/// A value without quotes; what is in it side by side. Nothing that it says moves a terminal's cursor.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect::<Vec<_>>()
            .join(", "),
    };
    text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(operation: Operation, answer: &Value) -> String {
        let mut out = Vec::new();
        write(operation, answer, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_list_is_a_table_and_says_how_it_goes_on() {
        let answer = json!({ "upstreams": [{ "name": "api", "up": true, "servers": [
            { "address": "192.0.2.1:80", "up": true }] }, { "name": "a\u{1b}[2J", "up": false }], "next": "abc" });
        let told = written(Operation::ListUpstreams, &answer);
        assert_eq!(
            told,
            "NAME   UP   SERVERS\napi    yes  address 192.0.2.1:80, up yes\na [2J  no\nthere are more: --cursor abc\n"
        );
    }

    #[test]
    fn anything_else_is_written_member_by_member() {
        let told = written(
            Operation::ShowStatus,
            &json!({ "ready": true, "store": { "fault": null, "writable": false } }),
        );
        assert_eq!(told, "ready                 yes\nstore.fault           \nstore.writable        no\n");
    }
}
