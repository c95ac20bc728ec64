//! Pieces of HTML that pages are made of.

use std::fmt::Write as _;

use crate::run::plot::{Drawing, Plot, escape};

/// A page of this body.
pub(super) fn page(title: &str, body: &str) -> String {
    const STYLE: &str = concat!(include_str!("../plot/plot.css"), include_str!("page.css"));
    let parts = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("title", &escape(title)),
        ("style", STYLE.trim_end()),
        ("script", include_str!("page.js").trim_end()),
        ("body", body),
    ];
    fill(include_str!("page.html"), &parts)
}

/// The template with each `{{name}}` replaced. What is put in is not looked at again.
pub(crate) fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        if let Some((_, part)) = parts.iter().find(|(known, _)| *known == name) {
            out.push_str(part);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A plot with the values under the pointer.
pub(super) fn figure(plot: &Plot, width: f64, height: f64) -> String {
    let Drawing { svg, hover } = plot.part(width, height);
    // Within a script element only `</` could end it early.
    let hover = hover.to_string().replace('<', "\\u003c");
    format!("<figure>{svg}<script type=\"application/json\">{hover}</script></figure>")
}

/// A plot in the width of the page, drawn for wide and for narrow ones.
pub(super) fn wide_figure(plot: &Plot) -> String {
    let narrow = Plot { id: format!("{}-narrow", plot.id), ..plot.clone() };
    format!(
        "<div class=\"wide\">{}</div><div class=\"narrow\">{}</div>",
        figure(plot, 990.0, 380.0),
        figure(&narrow, 380.0, 290.0)
    )
}

/// Views of which one is shown, chosen by a button: pairs of label and content. At most three.
pub(super) fn views(id: &str, views: &[(&str, String)]) -> String {
    let mut out = String::from("<div class=\"views\">");
    for (i, (label, _)) in views.iter().enumerate() {
        let checked = if i == 0 { " checked" } else { "" };
        _ = write!(
            out,
            "<input type=\"radio\" name=\"{id}\" id=\"{id}-{i}\"{checked}><label for=\"{id}-{i}\">{}</label>",
            escape(label)
        );
    }
    for (_, content) in views {
        _ = write!(out, "<div class=\"view\">{content}</div>");
    }
    out + "</div>"
}

/// A number with its name and a remark.
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) more: String,
}

pub(super) fn figures(figures: &[Figure]) -> String {
    let mut out = String::from("<dl class=\"figures\">");
    for Figure { name, value, more } in figures {
        _ = write!(
            out,
            "<div><dt>{name}</dt><dd><span class=\"value\">{}</span><span class=\"more\">{}</span></dd></div>",
            escape(value),
            escape(more)
        );
    }
    out + "</dl>"
}

/// How a column of a table is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Text(&'static str),
    Number(&'static str),
    /// Code, which may be broken anywhere.
    Code(&'static str),
}

/// A table of texts.
pub(super) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
    for column in columns {
        _ = match column {
            Column::Text(name) | Column::Code(name) => write!(out, "<th scope=\"col\">{}</th>", escape(name)),
            Column::Number(name) => write!(out, "<th scope=\"col\" class=\"num\">{}</th>", escape(name)),
        };
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        out += "<tr>";
        for (column, cell) in columns.iter().zip(row) {
            let cell = escape(cell);
            _ = match column {
                Column::Text(_) => write!(out, "<td>{cell}</td>"),
                Column::Number(_) => write!(out, "<td class=\"num\">{cell}</td>"),
                Column::Code(_) => write!(out, "<td class=\"break\"><code>{cell}</code></td>"),
            };
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>"
}

/// A table of names and texts, those without text left out.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let mut out = String::from("<table class=\"facts\"><tbody>");
    for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
        _ = write!(out, "<tr><th scope=\"row\">{name}</th><td class=\"break\">{}</td></tr>", escape(fact));
    }
    out + "</tbody></table>"
}

/// Something to be opened.
pub(super) fn details(summary: &str, content: &str) -> String {
    format!("<details><summary>{}</summary>{content}</details>", escape(summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled() {
        assert_eq!(fill("a{{x}}b{{y}}c", &[("x", "{{y}}"), ("y", "2")]), "a{{y}}b2c");
        let page = page("a < b", "<p>body</p>");
        assert!(page.contains("<title>a &lt; b</title>") && page.contains("<p>body</p>"));
        assert!(!page.contains("{{"), "every place is filled");
    }

    #[test]
    fn text_stays_text() {
        let shown = table(&[Column::Text("a"), Column::Code("b")], &[vec!["<i>".into(), "&".into()]]);
        assert!(shown.contains("<td>&lt;i&gt;</td><td class=\"break\"><code>&amp;</code></td>"), "{shown}");
        assert_eq!(facts(&[("empty", String::new())]), facts(&[]));
    }
}
