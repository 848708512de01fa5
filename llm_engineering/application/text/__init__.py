"""Work on plain text: sentences, words, tokens, Markdown, overlap, personal data. Knows no pipeline."""
