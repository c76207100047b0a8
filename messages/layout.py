"""The one e-mail layout, in MJML. Compiled once; what stands in double braces is filled in per message by Jinja."""

from __future__ import annotations

LAYOUT = """
<mjml lang="en">
  <mj-head>
    <mj-title>{{ subject }}</mj-title>
    <mj-preview>{{ heading }}</mj-preview>
    <mj-attributes>
      <mj-all font-family="Helvetica, Arial, sans-serif" />
      <mj-text font-size="16px" line-height="1.6" color="#24292f" />
    </mj-attributes>
  </mj-head>
  <mj-body background-color="#f3f4f6">
    <mj-section padding="24px 0 8px">
      <mj-column><mj-text font-size="18px" font-weight="700" color="#3b4252">{{ brand }}</mj-text></mj-column>
    </mj-section>
    <mj-section background-color="#ffffff" border-radius="10px" padding="16px 8px">
      <mj-column>
        <mj-text font-size="24px" line-height="1.3" font-weight="700">{{ heading }}</mj-text>
        <mj-text>{{ body }}</mj-text>
      </mj-column>
    </mj-section>
    <mj-section padding="8px 0 24px">
      <mj-column><mj-text font-size="13px" color="#57606a">{{ brand }} &middot; Order #{{ order_number }}</mj-text></mj-column>
    </mj-section>
  </mj-body>
</mjml>
"""
