//! Reports as one self-contained page: no script, no font, no download. The page can be stored
//! beside its figures and read anywhere, also on a phone.
//!
//! Text is HTML and only shapes are SVG, with places in per cent: text keeps its size at any
//! width. Everything that comes from outside is escaped here and nowhere else.

mod chart;
mod escape;

use std::fmt::Write as _;

pub use self::chart::{Bar, Curves, Line, Tone};
use self::escape::escape;

const STYLE: &str = include_str!("style.css");

/// A page that is being written.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self { title: escape(title), body: String::new() }
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.put(&format!("<h2>{}</h2>", escape(title)));
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: &str) {
        self.put(&format!("<p>{}</p>", escape(text)));
    }

    /// Adds a list whose entries are warnings.
    pub fn warnings(&mut self, title: &str, lines: &[String]) {
        let lines: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
        self.put(&format!("<div class=warn><b>{}</b><ul>{lines}</ul></div>", escape(title)));
    }

    /// Adds text as it was printed.
    pub fn printed(&mut self, text: &str) {
        self.put(&format!("<pre>{}</pre>", escape(text.trim_end())));
    }

    /// Adds a table; the first column is text, the others are figures. A wide table scrolls.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<(String, Tone)>]) {
        let head: String = header.iter().map(|name| format!("<th>{}</th>", escape(name))).collect();
        let mut body = String::new();
        for row in rows {
            body.push_str("<tr>");
            for (text, tone) in row {
                // Writing to a string cannot fail.
                let _ = write!(body, "<td{}>{}</td>", tone.class(), escape(text));
            }
            body.push_str("</tr>\n");
        }
        self.put(&format!(
            "<div class=wide><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
        ));
    }

    /// Adds horizontal bars on one scale.
    pub fn bars(&mut self, title: &str, bars: &[Bar]) {
        let svg = chart::bars(bars);
        self.put(&format!("<figure><figcaption>{}</figcaption>{svg}</figure>", escape(title)));
    }

    /// Adds curves over a common axis.
    pub fn curves(&mut self, curves: &Curves) {
        let svg = chart::curves(curves);
        let title = escape(&curves.title);
        self.put(&format!("<figure><figcaption>{title}</figcaption>{svg}</figure>"));
    }

    fn put(&mut self, html: &str) {
        self.body.push_str(html);
        self.body.push('\n');
    }

    /// The whole page.
    #[must_use]
    pub fn finish(self) -> String {
        let Self { title, body } = self;
        format!(
            "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n\
             <h1>{title}</h1>\n{body}</main></body></html>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Bar, Curves, Line, Page, Tone};

    const EVIL: &str = "<script>&\"'";

    #[test]
    fn external_text_is_escaped_in_html() {
        let mut page = Page::new(EVIL);
        page.section(EVIL);
        page.text(EVIL);
        page.warnings(EVIL, &[EVIL.to_owned()]);
        page.printed(EVIL);
        page.table(&[EVIL], &[vec![(EVIL.to_owned(), Tone::Plain)]]);
        page.bars(EVIL, &[Bar::new(EVIL, EVIL, vec![1.0, 2.0])]);
        let line = Line { name: EVIL.to_owned(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
        page.curves(&Curves {
            title: EVIL.to_owned(),
            x: "s".to_owned(),
            y: EVIL.to_owned(),
            lines: vec![line],
        });
        let html = page.finish();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("&lt;script&gt;&amp;&quot;&#39;"));
    }

    #[test]
    fn a_page_fetches_nothing() {
        let mut page = Page::new("x");
        page.bars("y", &[Bar::new("a", "1", vec![1.0])]);
        let html = page.finish();
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
