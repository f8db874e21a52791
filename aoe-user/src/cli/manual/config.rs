//! xblade.toml(5), made from the chapter on configuration: what is said there is said once.

/// The chapter. It uses headings, paragraphs, lists, tables and code blocks of Markdown.
const CHAPTER: &str = include_str!("../../../../docs/configuration.md");

/// The page, for man(1).
pub(super) fn page() -> String {
    let mut page = format!(
        ".TH xblade.toml 5 \"\" \"xblade {}\" \"File Formats\"\n.SH NAME\nxblade.toml \\- config file of xblade(8)\n\
         .SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut code = false;
    for line in CHAPTER.lines().filter(|line| !line.starts_with("# ")) {
        if line.starts_with("```") {
            code = !code;
            page += if code {
                ".PP\n.RS 4\n.nf\n"
            } else {
                ".fi\n.RE\n.PP\n"
            };
        } else if code {
            page += &safe(line);
            page.push('\n');
        } else {
            page += &prose(line);
        }
    }
    // One of an empty line, one of the block of code after it.
    page = page.replace(".PP\n.PP\n", ".PP\n");
    page += ".SH SEE ALSO\nxblade(8), xblade\\-daemon(8), xblade\\-check(8)\n";
    page
}

/// A line outside of code blocks.
fn prose(line: &str) -> String {
    if let Some(heading) = line.strip_prefix("## ") {
        return format!(
            ".SH \"{}\"\n",
            plain(heading).to_uppercase().replace('"', "\\(dq")
        );
    }
    if let Some(row) = line.strip_prefix('|') {
        return table_row(row.trim_end_matches('|'));
    }
    if let Some(item) = line.strip_prefix("- ") {
        return format!(".IP \\(bu 2\n{}\n", plain(item));
    }
    match line {
        "" => ".PP\n".to_owned(),
        _ => plain(line.trim_start()) + "\n",
    }
}

/// The first cell names what the others explain. Lines of a table's head say nothing that the text does not.
fn table_row(row: &str) -> String {
    let row = row.replace("\\|", "\u{1}");
    let cells: Vec<String> = row
        .split('|')
        .map(|cell| plain(&cell.trim().replace('\u{1}', "|")))
        .collect();
    let [name, rest @ ..] = cells.as_slice() else {
        return String::new();
    };
    let is_head = ["key", "what", "mode", "store", "key of an entry"].contains(&name.as_str());
    if is_head || name.starts_with("\\-\\-\\-") {
        return String::new();
    }
    let rest: Vec<&str> = rest
        .iter()
        .map(String::as_str)
        .filter(|cell| !cell.is_empty())
        .collect();
    let name = if name.is_empty() { "\\&" } else { name };
    format!(".TP\n.B {name}\n{}\n", rest.join("; "))
}

/// Without Markdown's marks; of a link, its text.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let parts = link
            .split_once("](")
            .and_then(|(shown, after)| Some((shown, after.split_once(')')?.1)));
        match parts {
            Some((shown, after)) if !shown.contains(']') => {
                out += &format!("{before}{shown}");
                rest = after;
            }
            _ => {
                out += &format!("{before}[");
                rest = link;
            }
        }
    }
    out += rest;
    safe(&out.replace(['`'], "").replace("**", ""))
}

/// What roff would take for something else, written so that it does not.
fn safe(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_roff() {
        assert_eq!(prose("## An export's own keys"), ".SH \"AN EXPORT'S OWN KEYS\"\n");
        assert_eq!(prose("see [below](#modes) and `a-b`"), "see below and a\\-b\n");
        assert_eq!(
            prose("| `slot` | 0 to 254 | | minor address |"),
            ".TP\n.B slot\n0 to 254; minor address\n"
        );
        assert_eq!(prose("| --- | --- |"), "");
        assert_eq!(prose("allow = [1] .x"), "allow = [1] .x\n");
        assert_eq!(safe(".fi"), "\\&.fi");
    }

    #[test]
    fn every_key_is_in_the_page() {
        let page = page();
        for key in ["shelf", "offset", "interfaces", "flush_interval", "cpus"] {
            assert!(page.contains(&format!(".TP\n.B {key}\n")), "{key}");
        }
        assert!(!page.contains("]("), "{page}");
    }
}
