"""The predecessor's formats: its files, its records, its tokens. Pure: no Flask, no database."""
