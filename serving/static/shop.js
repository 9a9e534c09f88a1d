// What the pages do beyond links, forms and htmx: carousels by button, a picture dropped anywhere, and words for what went wrong.
'use strict'

function ready(root) {  // controls that need this script
  for (const arrows of root.querySelectorAll('.arrows[hidden]')) {
    const rail = document.getElementById(arrows.firstElementChild.dataset.rail)
    arrows.hidden = rail.scrollWidth <= rail.clientWidth
  }
}
ready(document)
document.body.addEventListener('htmx:load', e => ready(e.detail.elt))

const calm = matchMedia('(prefers-reduced-motion: reduce)')
document.addEventListener('click', e => {
  const button = e.target.closest('[data-scroll]')
  if (button) {
    const rail = document.getElementById(button.dataset.rail)
    rail.scrollBy({ left: button.dataset.scroll * rail.clientWidth * 0.8, behavior: calm.matches ? 'auto' : 'smooth' })
  }
  for (const menu of document.querySelectorAll('.menu[open]')) if (!menu.contains(e.target)) menu.open = false
})
document.addEventListener('keydown', e => {
  if (e.key !== 'Escape') return
  for (const menu of document.querySelectorAll('.menu[open]')) { menu.open = false; menu.querySelector('summary').focus() }
})

// A picture, dropped anywhere.
const form = document.querySelector('.picture form'), drop = document.getElementById('drop')
const brings = e => form && e.dataTransfer && [...e.dataTransfer.types].includes('Files')
document.addEventListener('dragover', e => { if (brings(e)) { e.preventDefault(); drop.hidden = false } })
document.addEventListener('dragleave', e => { if (!e.relatedTarget) drop.hidden = true })
document.addEventListener('drop', e => {
  if (!brings(e)) return
  e.preventDefault(); drop.hidden = true
  const input = form.elements.image
  input.files = e.dataTransfer.files
  if (input.files.length) form.requestSubmit()
})

// What htmx did: say it, and do not lose the place of somebody who uses the keyboard.
const status = document.getElementById('status')
let timer
function say(text) { status.textContent = text }
new MutationObserver(() => {
  clearTimeout(timer)
  if (status.textContent) timer = setTimeout(() => { status.textContent = '' }, 6000)
}).observe(status, { childList: true, characterData: true, subtree: true })
document.body.addEventListener('htmx:responseError', e => {
  const xhr = e.detail.xhr, told = (xhr.getResponseHeader('Content-Type') || '').startsWith('text/plain')
  say(told ? xhr.responseText : 'That did not work. Please try again.')
})
document.body.addEventListener('htmx:sendError', () => say('The shop cannot be reached.'))
document.body.addEventListener('htmx:afterSettle', e => {
  if (document.activeElement !== document.body) return
  const rail = document.querySelector('#personal .scroll, #cart a, #cart button')
  if (rail && (e.detail.target.id === 'personal' || e.detail.target.id === 'cart')) rail.focus({ preventScroll: true })
})
