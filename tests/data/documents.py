"""Small files to parse, written byte by byte."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"

NAMESPACES = (
    f'xmlns:w="{W}" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
)


def pdf(pages: Sequence[str], *, title: str = "", labels: str = "", outline: str = "") -> bytes:
    """A PDF with these lines of Latin text on each page."""
    return drawn_pdf([drawn(text) for text in pages], title=title, labels=labels, outline=outline)


def drawn(text: str, x: float = 72, y: float = 720) -> str:
    """Drawing instructions for lines of text that begin at a point."""
    lines = " T* ".join(f"({_pdf_string(line)}) Tj" for line in text.split("\n") if line)
    return f"BT /F1 12 Tf 14 TL {x} {y} Td {lines} ET\n" if lines else ""


def drawn_pdf(
    pages: Sequence[str],
    *,
    title: str = "",
    labels: str = "",
    outline: str = "",
    page: str = "",
    image: bytes = b"",
) -> bytes:
    """A PDF of pages with these drawing instructions.

    `labels` is the /Nums array of its page labels, `outline` the title of a bookmark to its last page, `page`
    further entries of each page, `image` a stream object that the pages draw as /Im1.
    """
    kids = " ".join(f"{7 + 2 * index} 0 R" for index in range(len(pages)))
    page_labels = f" /PageLabels << /Nums [{labels}] >>" if labels else ""
    last = f"{5 + 2 * len(pages)} 0 R"
    objects: list[bytes] = [
        f"<< /Type /Catalog /Pages 2 0 R{page_labels}{' /Outlines 5 0 R' if outline else ''} >>".encode(),
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] /MediaBox [0 0 612 792] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        f"<< /Title ({title}) >>".encode(),
        f"<< /First << /Title ({outline}) /Parent 5 0 R /Dest [{last} /Fit] >> >>".encode(),
        image or b"null",
    ]
    for index, content in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R {page} "
            "/Resources << /Font << /F1 3 0 R >> /XObject << /Im1 6 0 R >> >> "
            f"/Contents {8 + 2 * index} 0 R >>".encode()
        )
        stream = content.encode("latin-1")
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info 4 0 R >>"
    return bytes(out + f"trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode())


def scanned_pdf(text: str, stamp: str = "") -> bytes:
    """A PDF whose first page is a picture of some text under a stamp; on the second "Typed." is typed."""
    import pypdfium2

    bitmap = pypdfium2.PdfDocument(pdf([text]))[0].render(scale=2, grayscale=True)
    buffer = bytes(bitmap.buffer)
    starts = range(0, bitmap.height * bitmap.stride, bitmap.stride)
    pixels = b"".join(buffer[start : start + bitmap.width] for start in starts)
    entries = (
        f"/Subtype /Image /Width {bitmap.width} /Height {bitmap.height} /ColorSpace /DeviceGray "
        f"/BitsPerComponent 8 /Length {len(pixels)}"
    )
    image = b"<< %s >>\nstream\n%s\nendstream" % (entries.encode(), pixels)
    picture = "q 612 0 0 792 0 0 cm /Im1 Do Q\n"
    return drawn_pdf([picture + drawn(stamp, y=40), drawn("Typed.")], image=image)


def _pdf_string(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def locked_pdf(pages: Sequence[str], password: str) -> bytes:
    """A PDF that opens with `password` only."""
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(pages))))
    writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def word(body: str, **parts: str) -> bytes:
    """A .docx with this XML inside <w:body>.

    `parts` is the inner XML of styles, numbering, footnotes and endnotes, and of the properties core and app.
    """
    files = {"word/document.xml": f"<w:document {NAMESPACES}><w:body>{body}</w:body></w:document>"}
    links = ""
    for name, content in parts.items():
        if name not in {"core", "app"}:
            files[f"word/{name}.xml"] = f"<w:{name} {NAMESPACES}>{content}</w:{name}>"
            links += f'<Relationship Id="{name}" Type="{_OFFICE}/{name}" Target="{name}.xml"/>'
    files["word/_rels/document.xml.rels"] = f'<Relationships xmlns="{_PACKAGE}">{links}</Relationships>'
    files["_rels/.rels"] = (
        f'<Relationships xmlns="{_PACKAGE}"><Relationship Id="main" Type="{_OFFICE}/officeDocument" '
        'Target="word/document.xml"/></Relationships>'
    )
    if "core" in parts:
        files["docProps/core.xml"] = f'<p xmlns:dc="http://purl.org/dc/elements/1.1/">{parts["core"]}</p>'
    if "app" in parts:
        files["docProps/app.xml"] = f"<Properties>{parts['app']}</Properties>"
    return zip_of(files)


def zip_of(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def paragraph(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr>{run(text)}</w:p>"


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r>'
